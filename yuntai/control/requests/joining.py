"""Letting hosts in: one-time tokens, what a host with one is told, and the transaction that makes it a host."""

from __future__ import annotations

import datetime as dt
import hmac
import ipaddress
import re
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from yuntai import config as configuration
from yuntai.config import ChunkServer as ConfiguredServer
from yuntai.config import Config, Tls
from yuntai.control import cpu_baseline, errors
from yuntai.control.errors import ApiError
from yuntai.control.requests.base import transact
from yuntai.control.requests.hosts import DOMAIN
from yuntai.control.requests.types import Caller
from yuntai.model.base import now_utc
from yuntai.model.cluster import ChunkServer, Host, HostPool
from yuntai.model.joining import HostToken, RemovedHost
from yuntai.model.joinwire import Hello, Joined, Joining, Peer, PoolNeeds, secret_hash, version_key

if TYPE_CHECKING:
    from yuntai.control.unit import Unit
    from yuntai.state import Store

TOKEN_MINUTES, TOKEN_MINUTES_MAX = 60, 24 * 60
SECRETS = ("cluster", "token")
DISKS_MAX = 64
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_TOKEN = re.compile(r"ht-[0-9a-f]{16}")
_RACK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Joining belongs to the cluster, not to a tenant.
_CLUSTER = Caller(account="cluster", request_id="join")


async def create_token(
    store: Store, caller: Caller, *, minutes: int = 0, pool: str = "", rack: str = "", lower_baseline: bool = False
) -> tuple[HostToken, bytes]:
    """Make a token; return its record and its secret, which is kept nowhere."""
    minutes = minutes or TOKEN_MINUTES
    if not 1 <= minutes <= TOKEN_MINUTES_MAX:
        raise errors.invalid("Minutes", minutes, f"use 1 to {TOKEN_MINUTES_MAX}")
    if pool and not _NAME.fullmatch(pool):
        raise errors.invalid("Pool", pool, "use a-z, 0-9 and -, a letter first")
    if rack and not _RACK.fullmatch(rack):
        raise errors.invalid("Rack", rack, "use letters, digits and . _ -, a letter or digit first")
    now = dt.datetime.now(dt.UTC)
    secret = secrets.token_bytes(32)
    token = HostToken(
        id=f"ht-{secrets.token_hex(8)}",
        secret_sha256=secret_hash(secret),
        created=_text(now),
        expires=_text(now + dt.timedelta(minutes=minutes)),
        pool=pool or "default",
        rack=rack,
        lower_baseline=lower_baseline,
    )

    async def body(unit: Unit) -> None:
        for old in await unit.list(HostToken):
            if _age_s(old.expires) > 0:
                unit.delete(HostToken, old.id)
        unit.add(token)

    await transact(store, caller, body, type(None))
    return token, secret


async def need_token(store: Store, token_id: str, secret: bytes) -> HostToken:
    """Return the token; refuse one that is not known, not proved or expired."""
    known = await store.get(HostToken, token_id) if _TOKEN.fullmatch(token_id) else None
    return _valid(known.value if known is not None else None, secret)


async def hello(store: Store, config: Config, token_id: str, secret: bytes) -> Hello:
    """Tell whoever has a token what its host is to be measured by."""
    valid = await need_token(store, token_id, secret)
    hosts = [one.value for one in await store.list(Host)]
    servers = [one.value for one in await store.list(ChunkServer)]
    pool = await store.get(HostPool, valid.pool)
    return Hello(
        cluster=config.cluster,
        now_unix_s=time.time(),
        pool=_needs(valid.pool, pool.value if pool is not None else None),
        lower_baseline=valid.lower_baseline,
        rack=valid.rack,
        peers=tuple(
            Peer(
                id=host.id,
                address=host.address,
                chunk_ports=tuple(int(s.address.rpartition(":")[2]) for s in servers if s.host == host.id),
            )
            for host in hosts
            if host.status == "up"
        ),
        versions=oldest([host.versions for host in hosts if host.status == "up"]),
        gateway_port=config.gateway_port,
        agent_port=config.agent_port,
        tls=config.tls is not None,
    )


async def join(store: Store, config: Config, token_id: str, secret: bytes, asked: Joining) -> Joined:
    """Make the machine a host, once; the same machine with the same token gets the same answer again."""
    _check(asked, config)

    async def body(unit: Unit) -> list[int]:
        await unit.guard(DOMAIN)
        token = _valid(await unit.get(HostToken, token_id) if _TOKEN.fullmatch(token_id) else None, secret)
        if token.used and (token.used_by, token.host) != (asked.machine, asked.host):
            raise _refused("Token", f"the token was used already, for the host {token.host}; make another one")
        again = bool(token.used)
        await _free_name(unit, asked, again=again)
        await _fits(unit, token, asked)
        numbers = await _numbers(unit, asked, token.rack or asked.rack)
        if await unit.get(Host, asked.host) is None:
            unit.put(_record(asked, token))
        if await unit.get(RemovedHost, asked.host) is not None:
            unit.delete(RemovedHost, asked.host)
        unit.put(msgspec.structs.replace(token, used=token.used or now_utc(), used_by=asked.machine, host=asked.host))
        return numbers

    numbers = await transact(store, _CLUSTER, body, list[int])
    token = (await store.need(HostToken, token_id)).value
    made = _config(config, asked, numbers, token.rack or asked.rack)
    return Joined(
        config=configuration.encode(made).decode(), secrets={name: config.secret(name).hex() for name in SECRETS}
    )


def oldest(versions: list[dict[str, str]]) -> dict[str, str]:
    """Return the lowest version of each program."""
    found: dict[str, str] = {}
    for one in versions:
        for name, version in one.items():
            if name not in found or version_key(version) < version_key(found[name]):
                found[name] = version
    return found


def _needs(pool_id: str, pool: HostPool | None) -> PoolNeeds:
    if pool is None:
        return PoolNeeds(id=pool_id, known=False)
    return PoolNeeds(
        id=pool.id,
        accelerator=pool.accelerator,
        cpu_vendor=pool.cpu_vendor,
        cpu_features=pool.cpu_features,
        mce_banks=pool.mce_banks,
    )


def _valid(token: HostToken | None, secret: bytes) -> HostToken:
    # One answer for all that is wrong with what somebody who has no token can try.
    if token is None or not hmac.compare_digest(token.secret_sha256, secret_hash(secret)):
        raise _refused("Token", "this cluster does not know the token; make one with `yuntai host token`")
    if _age_s(token.expires) > 0:
        raise _refused("Token", f"the token expired at {token.expires}; make another one with `yuntai host token`")
    return token


def _check(asked: Joining, config: Config) -> None:
    if not _NAME.fullmatch(asked.host):
        raise errors.invalid("host", asked.host, "use 1 to 31 of a-z, 0-9 and -, a letter first")
    if not _RACK.fullmatch(asked.rack):
        raise errors.invalid("rack", asked.rack, "use letters, digits and . _ -; choose it with --rack")
    try:
        ipaddress.ip_address(asked.address)
    except ValueError:
        raise errors.invalid("address", asked.address, "use the host's own IP address") from None
    if not asked.machine or not asked.machine.isprintable() or len(asked.machine) > 64:
        raise errors.invalid("machine", asked.machine, "use the text of /etc/machine-id")
    if len(asked.disks) > DISKS_MAX or len({disk.port for disk in asked.disks}) != len(asked.disks):
        raise errors.invalid("disks", len(asked.disks), f"use up to {DISKS_MAX}, each with a port of its own")
    if config.ovn_sb.startswith("unix:"):
        raise _refused("OVN", f"the cluster's OVN is reached by {config.ovn_sb} only; let it listen on tcp first")
    if (config.tls is None) != (asked.tls is None):
        raise _refused(
            "TLS",
            "hosts of this cluster have certificates; issue one with `yuntai host certificate` and name its files"
            if config.tls is not None
            else "hosts of this cluster have no certificates; leave --cert, --key and --ca out",
        )


async def _free_name(unit: Unit, asked: Joining, *, again: bool) -> None:
    for host in await unit.list(Host):
        if host.id == asked.host and not again:
            raise _refused("Host", f"there is a host {host.id} at {host.address} already; choose another --name")
        if host.id != asked.host and host.address == asked.address:
            raise _refused("Host", f"{asked.address} is the address of the host {host.id}; give this one its own")


async def _fits(unit: Unit, token: HostToken, asked: Joining) -> None:
    """Refuse a CPU that the pool cannot have; lower the pool's baseline where the token allows it."""
    pool = await unit.get(HostPool, token.pool)
    if pool is None:
        return
    host = _record(asked, token)
    impossible = cpu_baseline.impossible(pool, host)
    if impossible:
        raise _refused(
            "Cpu", f"it cannot be in the pool {pool.id}: {'; '.join(impossible)}; use --pool for another one"
        )
    lacking = cpu_baseline.missing_for_pool(host, pool)
    if lacking and not token.lower_baseline:
        raise _refused(
            "Cpu",
            f"it would lower the baseline of the pool {pool.id}: {'; '.join(lacking)}; let it into another pool "
            "(`yuntai host token --pool NAME`), or allow it with `yuntai host token --lower-baseline`",
        )
    if lacking:
        unit.put(cpu_baseline.lowered(pool, host, now_utc()))


async def _numbers(unit: Unit, asked: Joining, rack: str) -> list[int]:
    """Return the numbers of the host's chunk servers; those that it has got before are kept."""
    there = await unit.list(ChunkServer)
    known = {one.address: one.number for one in there if one.host == asked.host}
    following = max((one.number for one in there), default=0) + 1
    numbers = []
    for disk in asked.disks:
        address = f"{asked.address}:{disk.port}"
        number = known.get(address)
        if number is None:
            number, following = following, following + 1
            unit.put(
                ChunkServer(id=f"cs-{number}", number=number, rack=rack, host=asked.host, address=address, state="down")
            )
        numbers.append(number)
    return numbers


def _record(asked: Joining, token: HostToken) -> Host:
    """Return the host before its agent has said anything: nothing fits on it yet."""
    return Host(
        id=asked.host,
        address=asked.address,
        rack=token.rack or asked.rack,
        cpus=asked.cpus,
        memory_mib=asked.memory_mib,
        accelerator="kvm" if asked.accelerator == "kvm" else "tcg",
        cpu_model=asked.cpu_model,
        cpu_vendor=asked.cpu_vendor,
        cpu_features=tuple(sorted(set(asked.cpu_features))),
        mce_banks=asked.mce_banks,
        mce_banks_hardware=asked.mce_banks_hardware,
        versions=asked.versions,
        seen=now_utc(),
        vcpus_max=0,
        memory_mib_max=0,
        pool=token.pool,
    )


def _config(config: Config, asked: Joining, numbers: list[int], rack: str) -> Config:
    return Config(
        cluster=config.cluster,
        host=asked.host,
        address=asked.address,
        etcd=config.etcd,
        region=config.region,
        zone=config.zone,
        ovn_nb=config.ovn_nb,
        ovn_sb=config.ovn_sb,
        api_port=config.api_port,
        master_port=config.master_port,
        gateway_port=config.gateway_port,
        agent_port=config.agent_port,
        chunkservers=[
            ConfiguredServer(id=number, rack=rack, port=disk.port, path=disk.path)
            for number, disk in zip(numbers, asked.disks, strict=True)
        ],
        account=config.account,
        tls=Tls(**asked.tls) if asked.tls is not None else None,
    )


def _refused(what: str, why: str) -> ApiError:
    return ApiError(f"JoinRefused.{what}", why, errors.FORBIDDEN)


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _age_s(moment: str) -> float:
    return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(moment)).total_seconds()
