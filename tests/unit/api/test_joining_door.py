"""The door for hosts: TLS whose certificate the token names; to who has no token, nothing is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from yuntai import tls
from yuntai.api import joining as api_joining
from yuntai.config import Config
from yuntai.control.requests import joining
from yuntai.control.requests.types import Caller
from yuntai.join import client
from yuntai.model.joinwire import Joining, Token
from yuntai.state import MemoryStore

ASKED = Joining(
    machine="m", host="h2", address="10.0.0.2", rack="r", disks=(), cpus=1, memory_mib=4096, accelerator="tcg",
    cpu_model="EPYC", cpu_vendor="AMD", cpu_features=("avx",), mce_banks=10,
)  # fmt: skip


def config(folder: Path, digit: str) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cluster", "token"):
        (folder / name).write_text(digit * 64)
        (folder / name).chmod(0o600)
    return Config(
        cluster="c", host="h1", address="10.0.0.1", etcd=["10.0.0.1:2379", "10.0.0.9:2379"], secrets_dir=str(folder),
        ovn_sb="tcp:10.0.0.1:6642",
    )  # fmt: skip


@asynccontextmanager
async def door(made: Config) -> AsyncIterator[tuple[MemoryStore, Token]]:
    store = MemoryStore()
    record, secret = await joining.create_token(store, Caller(account="1"))
    opened = api_joining.Door(store, made)
    try:
        port = await opened.open("127.0.0.1", 0)
        yield (
            store,
            Token(
                endpoints=("127.0.0.1:1", f"127.0.0.1:{port}"),
                fingerprint=api_joining.fingerprint(made),
                id=record.id,
                secret=secret,
            ),
        )
    finally:
        await opened.close()


async def test_a_host_comes_in_with_its_token(tmp_path: Path) -> None:
    async with door(config(tmp_path, "a")) as (_, token):
        greeting = await client.hello(token)
        assert greeting.hello.cluster == "c"
        assert abs(greeting.skew_s) <= greeting.uncertain_s + 0.5, "both clocks are one"
        joined = await client.join(token, ASKED)
        assert joined.secrets["cluster"] == "a" * 64
        with pytest.raises(client.JoinError, match="used already"):
            await client.join(token, replace(ASKED, host="h3", machine="other"))


async def test_without_the_token_nothing_is_said(tmp_path: Path) -> None:
    async with door(config(tmp_path, "a")) as (_, token):
        other = replace(token, secret=b"x" * 32)
        for ask in (client.hello(other), client.join(other, ASKED)):
            with pytest.raises(client.JoinError, match="does not know the token"):
                await ask
        pinned = aiohttp.Fingerprint(token.fingerprint)
        async with aiohttp.ClientSession() as session:
            for headers in ({}, {"Authorization": "Token"}, {"Authorization": f"Token {token.id}:ä"}):
                url = f"https://{token.endpoints[1]}/join/v1/join"
                async with session.post(url, ssl=pinned, headers=headers, data=b"{}") as answer:
                    assert answer.status == 403
                    assert "secrets" not in await answer.text()


async def test_an_impostor_gets_no_token(tmp_path: Path) -> None:
    async with door(config(tmp_path / "impostor", "b")) as (_, token):
        mine = replace(token, fingerprint=api_joining.fingerprint(config(tmp_path / "real", "a")))
        with pytest.raises(client.JoinError, match="its certificate is another one"):
            await client.hello(mine)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(client.JoinError, match="does not answer"):
        await client.hello(Token(endpoints=("127.0.0.1:1",), fingerprint=b"f" * 32, id="x", secret=b"s"))


def test_every_api_has_the_same_certificate_and_other_secrets_another() -> None:
    first, again = (tls.derived_identity(b"s" * 32, "join") for _ in range(2))
    assert first == again
    others = [tls.derived_identity(b"t" * 32, "join")[0], tls.derived_identity(b"s" * 32, "other")[0]]
    assert len({tls.fingerprint(one) for one in (first[0], *others)}) == 3


def test_a_token_names_every_api(tmp_path: Path) -> None:
    assert api_joining.endpoints(config(tmp_path, "a")) == ("10.0.0.1:8443", "10.0.0.9:8443")
