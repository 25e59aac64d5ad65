"""Small pieces that the answers of several resources share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from yuntai.control.requests.types import Page

NEVER = "2099-12-31T15:59Z"
"""When a resource that is not rented by the month expires, as the public API writes it."""


def tag_set(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return ``Tags`` with ``TagKey``/``TagValue``, the spelling of ECS."""
    return {"Tag": [{"TagKey": key, "TagValue": value} for key, value in sorted(tags.items())]}


def vpc_tag_set(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return ``Tags`` with ``Key``/``Value``, the spelling of the VPC product."""
    return {"Tag": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]}


def to_minute(time: str) -> str:
    """Return ``2026-01-31T08:00Z`` for ``2026-01-31T08:00:00Z``: instances and key pairs show minutes."""
    return f"{time[:16]}Z" if len(time) == 20 else time


def account_number(account: str) -> int:
    """Return the account as the number that some answers want; 0 for the system's own."""
    return int(account) if account.isascii() and account.isdigit() else 0


def paged(
    page: Page[Any], key: str, item_key: str, items: Iterable[dict[str, Any]], *, token: bool = True
) -> dict[str, Any]:
    """Return one page with both ways of paging; ``token=False`` where the action knows page numbers only."""
    out: dict[str, Any] = {
        key: {item_key: list(items)},
        "PageNumber": page.page_number,
        "PageSize": page.page_size,
        "TotalCount": page.total,
    }
    if token:
        out["NextToken"] = page.next_token
    return out
