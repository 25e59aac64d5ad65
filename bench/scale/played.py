"""Chunk servers and gateways that only answer: the wire is played, the master in front of it is the real one."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from typing import Any

from yuntai.pangu import wire


def _key(volume: int, move: dict[str, int]) -> tuple[int, int, int, int]:
    return (volume, move["chunk"], move["from"], move["to"])


class Played:
    """What stands in for the network: :meth:`connect` has the signature of :func:`yuntai.pangu.wire.connect`."""

    def __init__(self, disk_bytes: int, used_bytes: int, replicas: int) -> None:
        self.down: set[int] = set()
        self.moving = True
        self.calls: Counter[str] = Counter()
        self.moves_told = 0
        self.moves_placed = 0
        self.first_moves_at = 0.0
        self.answered_at: dict[int, float] = {}
        self.degrade: tuple[str, int, int] | None = None  # (gateway, volume, server): told as soon as it can be
        self.opened: dict[str, dict[int, int]] = defaultdict(dict)  # gateway → volume → generation
        self._status = {
            "pid": 1,
            "version": "scale",
            "used_bytes": used_bytes,
            "free_bytes": disk_bytes - used_bytes,
            "total_bytes": disk_bytes,
            "replicas": replicas,
            "volumes": 1,
            "journal_bytes": 0,
            "damaged_blocks": 0,
            "full": False,
            "admitted": True,
            "store": "00",
            "workers": [],
            "damaged": [],
        }

    async def connect(
        self, address: str, secret: bytes, name: str, timeout_s: float = 5.0, *, context: object = None
    ) -> Any:
        """Connect to ``s<number>:port`` or ``h<number>:port``."""
        del secret, name, context
        host = address.partition(":")[0]
        if host.startswith("s"):
            if int(host[1:]) in self.down:
                # A host without power does not refuse: it says nothing.
                await asyncio.sleep(timeout_s)
                raise wire.WireError(f"{address} did not answer within {timeout_s:g} s")
            return Server(self, int(host[1:]))
        return Gateway(self, host)

    def server_status(self, number: int) -> dict[str, Any]:
        """Return the status of one server."""
        return {**self._status, "server": number, "store": f"{number:032x}"}


class Server:
    """A connection to a chunk server."""

    def __init__(self, played: Played, number: int) -> None:
        self.peer = {"server": f"cs:{number}", "version": "scale"}
        self.open = True
        self._played = played
        self._number = number

    async def call(self, request: dict[str, Any], timeout_s: float = 10.0) -> Any:
        """Answer at once, unless the server is down."""
        self._played.calls[request["op"]] += 1
        if self._number in self._played.down:
            await asyncio.sleep(timeout_s)
            self.open = False
            raise wire.WireError(f"cs:{self._number} did not answer {request['op']} within {timeout_s:g} s")
        match request["op"]:
            case "status":
                return self._played.server_status(self._number)
            case "volumes" | "inventory" | "drop_chunks":
                return []
            case "sweep":
                return {"done": True, "freed_bytes": 0}
            case "account":
                return {"done": True, "layers": []}
        return {}

    async def close(self) -> None:
        """Nothing is held."""
        self.open = False


class Gateway:
    """A connection to a gateway: it does what it is told at once, moves too."""

    def __init__(self, played: Played, host: str) -> None:
        self.peer = {"server": f"gateway:{host}", "version": "scale"}
        self.open = True
        self._played = played
        self._host = host
        self._events: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._moves: dict[int, list[dict[str, int]]] = {}
        self._raised: dict[int, int] = {}  # event → volume
        self._done: set[tuple[int, int, int, int]] = set()
        if played.degrade is not None and played.degrade[0] == host:
            _, volume, server = played.degrade
            event = {"op": "degrade", "volume": volume, "generation": 1, "server": server, "reason": "scale"}
            self._events.put_nowait((next(self._numbers), event))

    async def call(self, request: dict[str, Any], timeout_s: float = 10.0) -> Any:
        """Answer at once."""
        del timeout_s
        played, opened = self._played, self._played.opened[self._host]
        played.calls[request["op"]] += 1
        match request["op"]:
            case "open":
                opened[request["volume"]] = request["generation"]
                self._wanted(request["volume"], request["generation"], request.get("moves", []))
                return {"socket": f"/played/{request['volume']:x}.sock", "generation": request["generation"]}
            case "close":
                opened.pop(request["volume"], None)
                return {"flushed": True}
            case "moves":
                self._wanted(request["volume"], request["generation"], request["moves"])
                return {"under_way": request["moves"], "refused": []}
            case "status":
                return {"volumes": [self._volume(*one) for one in opened.items()], "pid": 1, "version": "scale"}
        return {}

    def _volume(self, volume: int, generation: int) -> dict[str, Any]:
        moves = [{**move, "raised": True} for move in self._moves.get(volume, ())]
        return {"volume": volume, "generation": generation, "moves": moves, "workers": [], "waiting": "", "barred": []}

    def _wanted(self, volume: int, generation: int, moves: list[dict[str, int]]) -> None:
        known = self._moves.get(volume, [])
        new = [move for move in moves if move not in known and _key(volume, move) not in self._done]
        if not new:
            return
        loop = asyncio.get_running_loop()
        self._played.first_moves_at = self._played.first_moves_at or loop.time()
        self._played.moves_told += len(new)
        self._moves[volume] = [*known, *new]
        if self._played.moving:
            for start in range(0, len(new), 64):
                event = {"op": "moved", "volume": volume, "generation": generation, "moves": new[start : start + 64]}
                number = next(self._numbers)
                self._raised[number] = volume
                self._events.put_nowait((number, event))

    async def next_event(self) -> tuple[int, dict[str, Any]]:
        """Wait for an event."""
        return await self._events.get()

    async def answer(self, event: int, body: dict[str, Any]) -> None:
        """Note when, and what was placed."""
        self._played.answered_at[event] = asyncio.get_running_loop().time()
        placed = body.get("moves", []) if body.get("answer") == "placed" else []
        self._played.moves_placed += len(placed)
        volume = self._raised.pop(event, 0)
        if placed:
            self._done.update(_key(volume, move) for move in placed)
            self._moves[volume] = [move for move in self._moves.get(volume, ()) if move not in placed]

    async def close(self) -> None:
        """Nothing is held."""
        self.open = False
