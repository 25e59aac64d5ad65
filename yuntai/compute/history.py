"""What a host's agent writes into an instance's history: that it had to end the guest and start it anew, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Instance, InstanceEvent

if TYPE_CHECKING:
    from yuntai.state import Store


async def tell(store: Store, instance: Instance, why: str) -> None:
    """Write that the instance is started anew on its host, as DescribeInstanceHistoryEvents shows it."""
    now = now_utc()
    event = InstanceEvent(
        id=new_id("e"),
        account=instance.account,
        instance=instance.id,
        type="SystemFailure.Reboot",
        reason=why,
        from_host=instance.host,
        to_host=instance.host,
        published=now,
        not_before=now,
        finished=now,
    )
    await store.create(event)
