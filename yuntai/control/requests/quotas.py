"""Quotas, derived from the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        QuotaUse,
    )
    from yuntai.state import Store


async def describe_quotas(store: Store, caller: Caller) -> list[QuotaUse]:
    """Every quota of the account with its use."""
    raise NotImplementedError
