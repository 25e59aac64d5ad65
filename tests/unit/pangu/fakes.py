"""A gateway and a chunk server in this process, speaking the real wire, with the fencing of real replicas."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from yuntai import _native
from yuntai.pangu import wire

SECRET = b"c" * 32
TOKEN_SECRET = b"t" * 32


class Replicas:
    """What all chunk servers together remember of volumes' writers: the authority that fences."""

    def __init__(self) -> None:
        self.claims: dict[int, tuple[int, int]] = {}
        self.deleted: set[int] = set()

    def claim(self, volume: int, generation: int, session: int) -> None:
        held = self.claims.get(volume, (0, 0))
        if generation < held[0] or (generation == held[0] and session != held[1]):
            raise wire.Refused(f"fenced: generation {held[0]} session {held[1]} holds the volume")
        if volume in self.deleted:
            raise wire.Refused("fenced: the volume was deleted")
        self.claims[volume] = (generation, session)


class Fake:
    """A listener that can be stopped with its connections, and started again on the same port.

    The port stays bound meanwhile: the system would give it to others, whom the master would then talk to.
    """

    name = "fake"

    def __init__(self) -> None:
        self.port = 0
        self.server: asyncio.Server | None = None
        self.reserved: socket.socket | None = None
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        self.release()

    def release(self) -> None:
        """Give the port back."""
        if self.reserved is not None:
            self.reserved.close()
            self.reserved = None

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
            self.reserved = socket.socket()
            self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.reserved.bind(("127.0.0.1", self.port))
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in list(self.writers):
            writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        task = asyncio.create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class FakeServer(Fake):
    """A chunk server that knows its status and deletes."""

    def __init__(self, number: int, rack: str, replicas: Replicas) -> None:
        super().__init__()
        self.number, self.rack, self.replicas = number, rack, replicas
        self.free_bytes = 900 << 30
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}  # op → what else it knows to answer
        self.sweeps: list[dict[str, Any]] = []
        self.accounts: list[dict[str, Any]] = []
        self.turns = 0
        self.total_bytes = 1000 << 30
        self.store, self.admitted = f"store-{number}", True
        self.term = 0
        self.tunables: dict[str, int] = {}
        self.held: dict[int, dict[int, dict[str, Any]]] = {}  # volume → chunk → its state
        self.damaged: list[dict[str, Any]] = []
        self.run = f"run-{number}"
        self.terms: list[int] = []

    def swap_disk(self) -> None:
        """Be the same server with another, empty disk."""
        self.store, self.admitted, self.held, self.damaged = f"new-{self.store}", False, {}, []

    def hold(self, volume: int, chunk: int, sequence: int = 1) -> None:
        position = {"generation": 1, "sequence": sequence}
        self.held.setdefault(volume, {})[chunk] = {"chunk": chunk, "position": position, "rebuilding": False}

    def work(self, request: dict[str, Any]) -> Any:
        match request["op"]:
            case "volumes":
                return sorted(self.held)
            case "inventory":
                return list(self.held.get(request["volume"], {}).values())
            case "admit":
                if request["store"] != self.store:
                    raise wire.Refused("another store is here")
                self.admitted = True
                return True
            case "tune":
                self.tunables = request["tunables"]
                return {}
            case "drop_chunks":
                if request["term"] < self.term:
                    raise wire.Refused(f"term {self.term} was heard of")
                self.term = request["term"]
                held = self.held.get(request["volume"], {})
                for state in request["chunks"]:
                    if held.get(state["chunk"]) == state:
                        del held[state["chunk"]]
                return [state["chunk"] for state in request["chunks"] if state["chunk"] not in held]
            case _:
                return {}

    def usage(self, request: dict[str, Any]) -> list[dict[str, int]]:
        """Say that each chunk that is asked for has one block of 4 KiB in each layer from 1 on."""
        bytes_ = 4096 * len(request["chunks"])
        return [
            {
                "layer": layer,
                "bytes": bytes_,
                "exclusive_bytes": bytes_ if layer in request["live"] else 0,
                "visible_bytes": bytes_ * layer if layer in request["live"] else 0,
            }
            for layer in range(1, len(request["parents"]))
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.serve_controls(reader, writer, SECRET, f"cs:{self.number}", self.handle)

    async def handle(self, request: dict[str, Any]) -> Any:
        if request["op"] == "order":
            text, _, mac = request["order"].rpartition(".")
            assert mac == hmac.digest(TOKEN_SECRET, b"order:" + text.encode(), "sha256").hex()
            order = json.loads(text)
            if order["run"] != self.run:
                raise wire.Refused("not allowed: order: it is for another run of this server")
            assert order["server"] == self.number
            request = order["request"]
            self.terms.append(order["term"])
        elif self.run and request["op"] in ("delete_volume", "admit", "drop_chunks", "sweep"):
            raise wire.Refused(f"not allowed: {request['op']} must come as an order")
        self.asked.append(request["op"])
        if request["op"] in self.answers:
            return self.answers[request["op"]](request)
        if request["op"] == "delete_volume":
            self.replicas.deleted.add(request["volume"])
            self.held.pop(request["volume"], None)
            return True
        if request["op"] == "sweep":
            self.sweeps.append(request)
            self.turns += 1
            return {"done": self.turns % 2 == 0, "freed_bytes": 4096 * self.turns}
        if request["op"] == "account":
            self.accounts.append(request)
            self.turns += 1
            layers = self.usage(request) if self.turns % 2 == 0 else []
            return {"done": self.turns % 2 == 0, "layers": layers}
        if request["op"] != "status":
            return self.work(request)
        total = self.total_bytes
        return {
            "server": self.number,
            "pid": os.getpid(),
            "version": "fake",
            "replicas": 7,
            "volumes": 1,
            "used_bytes": 7 * (32 << 20),
            "free_bytes": self.free_bytes,
            "total_bytes": total,
            "journal_bytes": 0,
            "damaged_blocks": 0,
            "full": False,
            "store": self.store,
            "admitted": self.admitted,
            "run": self.run,
            "damaged": self.damaged,
        }


class FakeGateway(Fake):
    """A gateway that opens, closes, snapshots, resizes, and raises the events that a test tells it to."""

    def __init__(self, host: str, replicas: Replicas) -> None:
        super().__init__()
        self.host, self.replicas = host, replicas
        self.session = int.from_bytes(os.urandom(4), "big")
        self.open: dict[int, dict[str, Any]] = {}
        self.requests: list[dict[str, Any]] = []
        self.before: dict[str, Any] = {}  # op → coroutine function to run before it is answered
        self.masters: list[asyncio.StreamWriter] = []
        self.answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count(1)
        self.tunables: dict[str, int] = {}
        self.flushed = True  # what it says of a volume that it closed
        self.closed: dict[int, int] = {}  # volume → generation that it closed well
        self.names_closed = True  # not so before gateways knew what they had closed
        self.under_way: dict[int, list[dict[str, int]]] = {}  # volume → moves, as the last list had them
        self.places: dict[int, str] = {}  # volume → ticket of the migration that is to bring it

    async def restart(self) -> None:
        """Lose everything in memory, as a killed process does."""
        await self.stop()
        self.open, self.masters, self.places, self.closed = {}, [], {}, {}
        self.session = int.from_bytes(os.urandom(4), "big")
        await self.start()

    async def raise_event(self, **event: Any) -> dict[str, Any]:
        """Tell the master that connected last, and return its answer."""
        number = next(self.numbers)
        self.answers[number] = asyncio.get_running_loop().create_future()
        self.masters[-1].write(wire.frame_bytes(wire.EVENT, number, event))
        async with asyncio.timeout(60):
            return await self.answers[number]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await wire.handshake_as_server(reader, writer, SECRET, f"gateway:{self.host}")
            self.masters.append(writer)
            async with asyncio.TaskGroup() as group:
                while True:
                    frame = await wire.read_frame(reader)
                    if frame.kind == wire.EVENT_REPLY:
                        self.answers[frame.request_id].set_result(frame.json())
                    else:
                        group.create_task(self._answer(writer, frame))
        except* (wire.WireError, OSError):
            pass
        finally:
            if writer in self.masters:
                self.masters.remove(writer)
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, frame: wire.Frame) -> None:
        request = frame.json()
        try:
            if request["op"] in self.before:
                await self.before[request["op"]](request)
            answer: dict[str, Any] = {"ok": self.handle(request)}
        except wire.Refused as error:
            answer = {"error": str(error)}
        writer.write(wire.frame_bytes(wire.CONTROL_REPLY, frame.request_id, answer))

    def handle_many(self, request: dict[str, Any]) -> Any:
        """Answer what is not about one volume."""
        if request["op"] == "tune":
            self.tunables = request["tunables"]
            return {}
        for one in request["volumes"]:
            if self.open.get(one["volume"], {}).get("generation") != one["generation"]:
                raise wire.Refused(f"volume {one['volume']} is not open under {one['generation']}")
        for one in request["volumes"]:
            self.open[one["volume"]].update(one)
        return {}

    def opened(self, request: dict[str, Any]) -> Any:
        volume, current = request["volume"], self.open.get(request["volume"])
        _, generation, _ = _native.check_token(TOKEN_SECRET, request["token"], 0)
        assert generation == (0 if request["read_only"] else request["generation"])
        if current is not None and current["generation"] != request["generation"]:
            raise wire.Refused(f"generation {current['generation']} is open here")
        if request["upkeep"] is not None:
            assert _native.check_token(TOKEN_SECRET, request["upkeep"]["token"], 0)[1] == request["generation"]
        if not request["read_only"] or request["upkeep"] is not None:
            self.replicas.claim(volume, request["generation"], self.session)
        self.open[volume] = dict(request)
        self.under_way[volume] = request["moves"]
        return {"socket": f"/run/yuntai/nbd/{request['export']}.sock", "generation": request["generation"]}

    def close(self, request: dict[str, Any]) -> dict[str, Any]:
        volume, generation = request["volume"], request["generation"]
        if self.open.pop(volume, None) is not None and self.flushed:
            self.closed[volume] = generation
        if not self.names_closed:
            return {"flushed": self.flushed}
        return {"flushed": self.closed.get(volume) == generation, "generation": generation}

    def handle(self, request: dict[str, Any]) -> Any:
        if request["op"] == "status":
            opened = [
                {"volume": v, "generation": o["generation"], "writes": 5, "moves": self.under_way.get(v, [])}
                for v, o in self.open.items()
            ]
            standbys = [{"volume": volume, "ticket": ticket} for volume, ticket in self.places.items()]
            return {"volumes": opened, "standbys": standbys, "pid": os.getpid(), "version": "fake"}
        self.requests.append(request)
        if "volume" not in request:
            return self.handle_many(request)
        volume = request["volume"]
        current = self.open.get(volume)
        if request["op"] == "open":
            self.places.pop(volume, None)
            return self.opened(request)
        if request["op"] == "standby":
            self.places[volume] = request["ticket"]
            return {"socket": f"/run/yuntai/nbd/{request['export']}.sock", "generation": 0}
        if request["op"] == "end_standby":
            if self.places.get(volume) == request["ticket"]:
                del self.places[volume]
            return {}
        if current is not None and current["generation"] != request["generation"]:
            raise wire.Refused(f"generation {current['generation']} is open here, not {request['generation']}")
        if request["op"] == "close":
            return self.close(request)
        if current is None:
            raise wire.Refused("the volume is not open here")
        if request["op"] == "moves":
            self.under_way[volume] = request["moves"]
            return {"under_way": self.under_way[volume], "refused": []}
        current.update(request)
        return {}
