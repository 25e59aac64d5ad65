"""Who knows the cluster's secret only, as every gateway does, destroys nothing: that takes the master's signature."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.functional.storage import Storage
from tests.security.test_tokens import written
from yuntai.pangu import wire
from yuntai.pangu.tokens import Signer


async def test_only_signed_orders_destroy_and_each_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, _ = await written(storage)
    await storage.close(volume)
    signer = Signer(storage.token_secret)
    peer = await wire.connect(f"127.0.0.1:{storage.ports[1]}", storage.secret, "gateway:evil")
    run = (await peer.call({"op": "status"}))["run"]
    held = await peer.call({"op": "inventory", "volume": volume.number})
    assert held
    drop: dict[str, Any] = {"op": "drop_chunks", "volume": volume.number, "term": 7, "chunks": held}
    delete = {"op": "delete_volume", "volume": volume.number}
    sweep = {"op": "sweep", "volume": volume.number, "term": 7, "parents": [0, 0], "live": []}

    async def refused(request: dict[str, Any], why: str) -> None:
        with pytest.raises(wire.Refused, match=why):
            await peer.call(request)

    async def order_refused(order: str, why: str) -> None:
        await refused({"op": "order", "order": order}, why)

    for request in (drop, delete, sweep, {"op": "admit", "store": "x"}):
        await refused(request, "must come as an order")
    good = signer.order(1, run, 7, delete)
    await order_refused(Signer(storage.secret).order(1, run, 7, delete), "signature")
    await order_refused(good.replace(str(volume.number), str(volume.number + 1)), "signature")
    await order_refused(storage.token(volume, 9), "signature")
    await order_refused(signer.order(2, run, 7, delete), "for server 2")
    await order_refused(signer.order(1, "a run before", 7, delete), "another run")
    await order_refused(signer.order(1, run, 7, {"op": "order", "order": good}), "needs none")
    now = time.time()
    with monkeypatch.context() as earlier:
        earlier.setattr("yuntai.pangu.tokens.time.time", lambda: now - 3600)
        old = signer.order(1, run, 7, delete)
    await order_refused(old, "signed at")
    once = signer.order(1, run, 8, {**drop, "term": 8, "chunks": []})
    assert await peer.call({"op": "order", "order": once}) == []
    await order_refused(once, "followed before")
    await order_refused(good, "term 7: 8 was heard here")
    assert await peer.call({"op": "inventory", "volume": volume.number}) == held, "nothing is gone"
    await peer.close()
