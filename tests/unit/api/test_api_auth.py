"""Signatures, throttle, nonces, connections: who may ask, how often, and only once."""

from __future__ import annotations

import hashlib
from urllib.parse import urlencode

import pytest
from alibabacloud_tea_openapi.utils import Utils
from darabonba.request import DaraRequest
from hypothesis import given
from hypothesis import strategies as st
from libcloud.common.aliyun import AliyunRequestSignerAlgorithmV1_0

from yuntai.api import signature, wire
from yuntai.api.connections import Connections
from yuntai.api.errors import ThrottledError
from yuntai.api.replay import WINDOW_S, NonceMemory, Replay, parse_time
from yuntai.api.throttle import Throttle
from yuntai.control.errors import ApiError
from yuntai.state import MemoryStore

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


class Clock:
    """A clock that a test turns."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


# ---- signatures: the vectors come from the official SDKs themselves ------------------------------------------------
@given(
    st.dictionaries(TEXT.filter(lambda key: key not in ("Signature", "")), TEXT, max_size=6),
    st.sampled_from(["GET", "POST"]),
)
def test_rpc_signatures_are_those_of_the_sdk(params: dict[str, str], method: str) -> None:
    text = signature.rpc_string_to_sign(method, {**params, "Signature": "ignored"})
    claim = signature.Claim("k", "n", "t", Utils.get_rpcsignature(params, method, "secret"), text, "", acs3=False)
    assert claim.proved_by("secret")
    assert not claim.proved_by("secreT")


def test_rpc_signatures_are_those_of_libcloud() -> None:
    signer = AliyunRequestSignerAlgorithmV1_0("key", "secret", "2014-05-26")
    params = signer.get_request_params({"Action": "DescribeInstances", "Note": "a b*~+/=中"}, "GET", "/")
    text = signature.rpc_string_to_sign("GET", params)
    assert signature.Claim("k", "n", "t", params["Signature"], text, "", acs3=False).proved_by("secret")


@given(
    st.dictionaries(st.sampled_from(["A", "Tag.1.Key", "b"]), TEXT, max_size=3),
    st.sampled_from([b"", b"a=1&b=%20"]),
)
def test_acs3_signatures_are_those_of_the_sdk(query: dict[str, str], body: bytes) -> None:
    request = DaraRequest()
    request.method, request.pathname, request.query = "POST", "/", query
    request.headers = {
        "host": "127.0.0.1:8080",
        "x-acs-action": "DescribeInstances",
        "x-acs-version": "2014-05-26",
        "x-acs-date": "2026-11-23T00:00:00Z",
        "x-acs-signature-nonce": "n",
        "accept": "application/json",
    }
    digest = hashlib.sha256(body).hexdigest()
    authorization = Utils.get_authorization(request, "ACS3-HMAC-SHA256", digest, "key", "secret")
    headers = {**request.headers, "Authorization": authorization}
    received = wire.WireRequest("POST", "/", urlencode(query), headers, body, dict(query))
    claim = signature.claim_of(received)
    assert (claim.access_key_id, claim.nonce) == ("key", "n")
    assert claim.proved_by("secret")
    assert not claim.proved_by("other")


# ---- throttle and nonces -------------------------------------------------------------------------------------------
def test_a_bucket_fills_again() -> None:
    clock = Clock()
    throttle = Throttle(rate_per_s=10, burst=2, clock=clock)
    throttle.take("a")
    throttle.take("a")
    throttle.take("b")
    with pytest.raises(ThrottledError) as caught:
        throttle.take("a")
    assert caught.value.retry_after_ms == 100
    clock.now_s += 0.1001
    throttle.take("a")


def test_the_memory_of_nonces_is_bounded_and_forgets_what_is_too_old() -> None:
    clock = Clock()
    memory = NonceMemory(limit=3, limit_per_key=2, clock=clock)
    memory.remember("key", b"1", clock.now_s)
    memory.remember("key", b"2", clock.now_s + WINDOW_S)
    with pytest.raises(ApiError, match="SignatureNonceUsed"):
        memory.remember("key", b"1", clock.now_s + 60)
    with pytest.raises(ThrottledError):
        memory.remember("key", b"3", clock.now_s)
    memory.remember("other", b"1", clock.now_s)
    with pytest.raises(ThrottledError):
        memory.remember("third", b"1", clock.now_s)
    clock.now_s += WINDOW_S + 61
    memory.remember("key", b"1", clock.now_s)
    with pytest.raises(ApiError, match="SignatureNonceUsed"):
        memory.remember("key", b"2", clock.now_s)
    clock.now_s += WINDOW_S
    memory.remember("key", b"2", clock.now_s)


def claim(nonce: str, timestamp: str = "2026-11-23T00:00:00Z") -> signature.Claim:
    return signature.Claim("key", nonce, timestamp, "", "", "", acs3=True)


async def test_a_write_is_refused_by_another_process_too() -> None:
    store, clock = MemoryStore(), Clock(parse_time("2026-11-23T00:00:00Z"))
    one, other = Replay(store, clock=clock), Replay(store, clock=clock)
    await one.check(claim("a"), writes=True)
    with pytest.raises(ApiError, match="SignatureNonceUsed"):
        await other.check(claim("a"), writes=True)
    await one.check(claim("b"), writes=False)
    await other.check(claim("b"), writes=False)
    await one.close()
    await other.close()


async def test_leases_of_nonces_take_turns() -> None:
    store, clock = MemoryStore(), Clock(parse_time("2026-11-23T00:00:00Z"))
    replay = Replay(store, clock=clock)
    for turn in range(6):
        clock.now_s = parse_time(f"2026-11-23T0{turn}:00:00Z")
        await replay.check(claim(f"n{turn}", f"2026-11-23T0{turn}:00:00Z"), writes=True)
        assert len(store.memory.leases) <= 2
    await replay.close()


async def test_a_lease_that_etcd_lost_is_replaced() -> None:
    store, clock = MemoryStore(), Clock(parse_time("2026-11-23T00:00:00Z"))
    replay = Replay(store, clock=clock)
    await replay.check(claim("a"), writes=True)
    store.memory.expire(next(iter(store.memory.leases)))
    await replay.check(claim("b"), writes=True)
    with pytest.raises(ApiError, match="SignatureNonceUsed"):
        await Replay(store, clock=clock).check(claim("b"), writes=True)
    await replay.close()


async def test_a_nonce_of_an_absurd_length_is_refused() -> None:
    with pytest.raises(ApiError, match="SignatureNonce"):
        await Replay(MemoryStore()).check(claim("x" * 300), writes=False)


# ---- connections ---------------------------------------------------------------------------------------------------
class Transport:
    """A transport that notes its end."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class Connection:
    """A connection as the HTTP library shows it."""

    def __init__(self) -> None:
        self.transport = Transport()


def test_silent_connections_are_dropped_and_busy_ones_stay() -> None:
    clock = Clock()
    silent, busy, fresh = Connection(), Connection(), Connection()
    there = [silent, busy]
    connections = Connections(lambda: there, silent_s=90, limit=10, clock=clock)
    with connections.request(busy):
        assert connections.sweep() == 0
        clock.now_s += 80
        there.append(fresh)
        assert connections.sweep() == 0
        clock.now_s += 11
        assert connections.sweep() == 1
    assert [one.transport.aborted for one in (silent, busy, fresh)] == [True, False, False]
    there.remove(silent)
    assert connections.sweep() == 0, "the time of silence begins when a request ends"


def test_above_the_limit_the_most_silent_go_first() -> None:
    clock = Clock()
    there: list[Connection] = []
    connections = Connections(lambda: there, limit=2, clock=clock)
    for _ in range(4):
        there.append(Connection())
        clock.now_s += 1
        connections.sweep()
    assert [one.transport.aborted for one in there] == [True, True, False, False]
