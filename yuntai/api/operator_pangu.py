"""The operator's view of the block store: its background work, health and settings, and what it is told to do.

The master's answers are reports for a person or a program of the operator's; they are handed on as JSON text.
"""

from __future__ import annotations

import json
from typing import Any

from yuntai.api.errors import invalid_parameter
from yuntai.api.registry import YUNTAI, Call, action

TOPICS = ("work", "health", "settings")
ORDERS = ("settings", "drain", "balance", "scrub", "salvage", "give_up")


@action(YUNTAI, "DescribePangu", "Topic!", "Report", operator=True)
async def describe_pangu(call: Call) -> dict[str, Any]:
    """Tell what the block store works on, how it is, or how it is tuned."""
    topic = call.text("Topic")
    if topic not in TOPICS:
        raise invalid_parameter("Topic", f"give one of {', '.join(TOPICS)}")
    report = await call.context.volumes.operate(topic)
    if topic == "health":
        report["masters"] = await call.context.volumes.masters()
    return {"Report": json.dumps(report)}


@action(YUNTAI, "OperatePangu", "Order! Arguments", "Report", operator=True)
async def operate_pangu(call: Call) -> dict[str, Any]:
    """Tell the block store to do something; ``Arguments`` is the order's JSON object."""
    order = call.text("Order")
    if order not in ORDERS:
        raise invalid_parameter("Order", f"give one of {', '.join(ORDERS)}")
    try:
        arguments = json.loads(call.text("Arguments") or "{}")
    except ValueError as error:
        raise invalid_parameter("Arguments", f"it is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise invalid_parameter("Arguments", "give a JSON object")
    return {"Report": json.dumps(await call.context.volumes.operate(order, arguments))}


@action(YUNTAI, "RemoveChunkServer", "ChunkServerId!", operator=True)
async def remove_chunk_server(call: Call) -> dict[str, Any]:
    """Forget a chunk server that was drained."""
    await call.context.volumes.remove_server(call.text("ChunkServerId"))
    return {}
