"""The talk with the cluster: over TLS with whoever has the certificate that the token names, and nobody else."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from yuntai.model.joinwire import BODY_BYTES_MAX, PATH_HELLO, PATH_JOIN, Hello, Joined, Joining, Refusal, Token

T = TypeVar("T", Hello, Joined)

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 60.0


class JoinError(Exception):
    """The host did not join; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """The cluster's hello, and how far this clock is from its clock, give or take."""

    hello: Hello
    skew_s: float
    uncertain_s: float


async def hello(token: Token) -> Greeting:
    """Ask what this host is to be measured by."""
    answer, asked_s, answered_s = await _ask(token, PATH_HELLO, b"", Hello)
    middle = (asked_s + answered_s) / 2
    return Greeting(answer, middle - answer.now_unix_s, (answered_s - asked_s) / 2)


async def join(token: Token, asked: Joining) -> Joined:
    """Ask to become a host."""
    return (await _ask(token, PATH_JOIN, msgspec.json.encode(asked), Joined))[0]


async def _ask(token: Token, path: str, body: bytes, kind: type[T]) -> tuple[T, float, float]:
    silent = []
    for endpoint in token.endpoints:
        try:
            return await _ask_one(token, endpoint, path, body, kind)
        except aiohttp.ServerFingerprintMismatch as error:
            raise JoinError(
                f"{endpoint} is not the cluster that made the token: its certificate is another one. Somebody may be "
                "in between; check the network, and make another token"
            ) from error
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            silent.append(f"{endpoint}: {error or type(error).__name__}")
    raise JoinError(f"the cluster does not answer ({'; '.join(silent)}); check routes and firewalls to these addresses")


async def _ask_one(
    token: Token, endpoint: str, path: str, body: bytes, kind: type[T]
) -> tuple[T, float, float]:  # fmt: skip
    times = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    secret = base64.b64encode(token.secret).decode()
    headers = {"Authorization": f"Token {token.id}:{secret}"}
    pinned = aiohttp.Fingerprint(token.fingerprint)
    async with aiohttp.ClientSession(timeout=times) as session:
        # The connection stands and its certificate is checked before anything is sent.
        await (await session.get(f"https://{endpoint}/", ssl=pinned)).release()
        asked_s = time.time()
        async with session.post(f"https://{endpoint}{path}", data=body, headers=headers, ssl=pinned) as response:
            answered_s = time.time()
            raw = await response.content.read(BODY_BYTES_MAX + 1)
            if response.status != 200:
                raise JoinError(_refusal(raw, response.status))
    try:
        return msgspec.json.decode(raw, type=kind), asked_s, answered_s
    except msgspec.DecodeError as error:
        raise JoinError(f"{endpoint} answers what this version does not understand: {error}") from error


def _refusal(raw: bytes, status: int) -> str:
    try:
        return f"the cluster says no: {msgspec.json.decode(raw, type=Refusal).message}"
    except msgspec.DecodeError:
        return f"the cluster answers with HTTP {status}; its API's log says why"
