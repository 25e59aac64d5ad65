"""Requests on instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        InstanceChange,
        InstanceDetail,
        InstanceFilter,
        InstanceResponse,
        Page,
        Paging,
        RunInstances,
    )
    from yuntai.state import Store


async def run_instances(store: Store, caller: Caller, request: RunInstances) -> list[str]:
    """RunInstances: instance ids; they go Pending, Starting, Running."""
    raise NotImplementedError


async def create_instance(store: Store, caller: Caller, request: RunInstances) -> str:
    """CreateInstance: one instance that ends Stopped."""
    raise NotImplementedError


async def start_instance(store: Store, caller: Caller, instance_id: str, *, dry_run: bool = False) -> None:
    """StartInstance."""
    raise NotImplementedError


async def stop_instance(
    store: Store,
    caller: Caller,
    instance_id: str,
    *,
    force: bool = False,
    stopped_mode: str = "",
    dry_run: bool = False,
) -> None:
    """StopInstance."""
    raise NotImplementedError


async def reboot_instance(
    store: Store, caller: Caller, instance_id: str, *, force: bool = False, dry_run: bool = False
) -> None:
    """RebootInstance."""
    raise NotImplementedError


async def delete_instance(
    store: Store, caller: Caller, instance_id: str, *, force: bool = False, dry_run: bool = False
) -> None:
    """DeleteInstance."""
    raise NotImplementedError


async def start_instances(
    store: Store, caller: Caller, instance_ids: tuple[str, ...], *, all_together: bool = True, dry_run: bool = False
) -> list[InstanceResponse]:
    """StartInstances. all_together: one failure raises and nothing is done; else one response each (BatchOptimization=SuccessFirst)."""
    raise NotImplementedError


async def stop_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    force: bool = False,
    stopped_mode: str = "",
    all_together: bool = True,
    dry_run: bool = False,
) -> list[InstanceResponse]:
    """StopInstances."""
    raise NotImplementedError


async def reboot_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    force: bool = False,
    all_together: bool = True,
    dry_run: bool = False,
) -> list[InstanceResponse]:
    """RebootInstances."""
    raise NotImplementedError


async def delete_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    force: bool = False,
    client_token: str = "",
    dry_run: bool = False,
) -> None:
    """DeleteInstances: all or none."""
    raise NotImplementedError


async def modify_instance_attribute(store: Store, caller: Caller, instance_id: str, change: InstanceChange) -> None:
    """ModifyInstanceAttribute."""
    raise NotImplementedError


async def describe_instances(
    store: Store, caller: Caller, wanted: InstanceFilter, paging: Paging
) -> Page[InstanceDetail]:
    """DescribeInstances and its relatives (status, attribute, user data)."""
    raise NotImplementedError


async def get_instance(store: Store, caller: Caller, instance_id: str) -> InstanceDetail:
    """One instance, or InvalidInstanceId.NotFound."""
    raise NotImplementedError
