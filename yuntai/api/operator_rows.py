"""How the operator's lists are chosen from and cut into pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from yuntai.api.common import paged
from yuntai.api.registry import Call
from yuntai.control.requests.types import Page


def paged_rows(call: Call, key: str, item_key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Cut the page that was asked for out of all rows."""
    wanted = call.paging()
    first = (wanted.page_number - 1) * wanted.page_size
    page: Page[Any] = Page(items=(), total=len(rows), page_number=wanted.page_number, page_size=wanted.page_size)
    return paged(page, key, item_key, rows[first : first + wanted.page_size], token=False)


def chosen(rows: Iterable[dict[str, Any]], key: str, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the rows that were asked for by id; all, if none were."""
    return [row for row in rows if not wanted or row[key] in wanted]
