"""The operator's hosts: what they are, what is on them, emptying, labelling and removing them."""

from __future__ import annotations

from typing import Any

from yuntai.api.operator_rows import chosen, paged_rows
from yuntai.api.registry import PAGES, YUNTAI, Call, action
from yuntai.control import cpu_baseline
from yuntai.control.requests import hosts, joining
from yuntai.model.base import now_utc
from yuntai.model.cluster import ChunkServer, Host, HostPool
from yuntai.model.compute import Instance
from yuntai.model.joinwire import Token, write_token

_HOST = """
    Accelerator Address Cpus:i CpuModel CpuVendor CpuFeatures[] MceBanks:i MceBanksHardware:i HostId InstanceCount:i
    MemoryMib:i MemoryMibMax:i MemoryMibUsed:i Rack Seen Status Vcpus:i VcpusMax:i Versions[]{Name Version}
    Maintenance Pool Dedicated AwaitedUntil JailedUntil Unfit[] Labels[]{Key Value} Waiting[]{InstanceId Why}
    Instances[]{InstanceId Name Status MigratingTo} ChunkServers[]{ChunkServerId State UsedBytes:i}
"""
_POOL = "PoolId Accelerator CpuModel CpuVendor CpuFeatures[] MceBanks:i Computed Hosts[]"


def jailed_until(host: Host) -> str:
    """Return until when nothing is placed on a host because it failed too often, "" if that is over."""
    return host.jailed_until if host.jailed_until > now_utc() else ""


def awaited_until(host: Host) -> str:
    """Return until when a host that was off with all others is given time to come back, "" if that is over."""
    return host.awaited_until if host.awaited_until > now_utc() else ""


def _host(host: Host, pool: HostPool | None, guests: list[Instance], servers: list[ChunkServer]) -> dict[str, Any]:
    return {
        "Accelerator": host.accelerator,
        "Address": host.address,
        "AwaitedUntil": awaited_until(host),
        "ChunkServers": [
            {"ChunkServerId": one.id, "State": one.state, "UsedBytes": one.used_bytes}
            for one in sorted(servers, key=lambda one: one.number)
        ],
        "CpuFeatures": list(host.cpu_features),
        "CpuModel": host.cpu_model,
        "CpuVendor": host.cpu_vendor,
        "Cpus": host.cpus,
        "Dedicated": host.dedicated,
        "HostId": host.id,
        "InstanceCount": len(guests),
        "Instances": [
            {"InstanceId": one.id, "Name": one.name, "Status": one.status, "MigratingTo": one.migrating_to}
            for one in sorted(guests, key=lambda one: one.id)
        ],
        "JailedUntil": jailed_until(host),
        "Labels": [{"Key": key, "Value": value} for key, value in sorted(host.labels.items())],
        "Maintenance": host.maintenance,
        "MceBanks": host.mce_banks,
        "MceBanksHardware": host.mce_banks_hardware,
        "MemoryMib": host.memory_mib,
        "MemoryMibMax": host.memory_mib_max,
        "MemoryMibUsed": sum(guest.memory_mib for guest in guests),
        "Pool": host.pool,
        "Rack": host.rack,
        "Seen": host.seen,
        "Status": host.status,
        "Unfit": list(cpu_baseline.missing_for_pool(host, pool)),
        "Vcpus": sum(guest.cpu for guest in guests),
        "VcpusMax": host.vcpus_max,
        "Versions": [{"Name": name, "Version": version} for name, version in sorted(host.versions.items())],
        "Waiting": [{"InstanceId": one, "Why": why} for one, why in sorted(host.waiting.items())],
    }


@action(
    YUNTAI,
    "DescribeHosts",
    f"HostId[]{PAGES}",
    f"Hosts{{Host[]{{{_HOST}}}}} PageNumber:i PageSize:i TotalCount:i",
    operator=True,
)
async def describe_hosts(call: Call) -> dict[str, Any]:
    """List compute hosts with what runs on them."""
    reads = call.context.reads
    guests: dict[str, list[Instance]] = {}
    for one in await reads.list(Instance):
        guests.setdefault(one.value.host, []).append(one.value)
    servers: dict[str, list[ChunkServer]] = {}
    for server in await reads.list(ChunkServer):
        servers.setdefault(server.value.host, []).append(server.value)
    pools = {pool.value.id: pool.value for pool in await reads.list(HostPool)}
    rows = (
        _host(one.value, pools.get(one.value.pool), guests.get(one.value.id, []), servers.get(one.value.id, []))
        for one in await reads.list(Host)
    )
    return paged_rows(call, "Hosts", "Host", chosen(rows, "HostId", call.texts("HostId")))


@action(
    YUNTAI,
    "DescribeHostPools",
    f"PoolId[]{PAGES}",
    f"HostPools{{HostPool[]{{{_POOL}}}}} PageNumber:i PageSize:i TotalCount:i",
    operator=True,
)
async def describe_host_pools(call: Call) -> dict[str, Any]:
    """List pools of hosts with the CPU that every guest in them gets."""
    there = [one.value for one in await call.context.reads.list(Host)]
    rows = (
        {
            "Accelerator": pool.accelerator,
            "Computed": pool.computed,
            "CpuFeatures": list(pool.cpu_features),
            "CpuModel": pool.cpu_model,
            "CpuVendor": pool.cpu_vendor,
            "Hosts": sorted(host.id for host in there if host.pool == pool.id),
            "MceBanks": pool.mce_banks,
            "PoolId": pool.id,
        }
        for pool in (one.value for one in await call.context.reads.list(HostPool))
    )
    return paged_rows(call, "HostPools", "HostPool", chosen(rows, "PoolId", call.texts("PoolId")))


@action(YUNTAI, "DrainHost", "HostId! Undo:b", operator=True)
async def drain_host(call: Call) -> dict[str, Any]:
    """Have everything moved away from a host, or let it take instances again."""
    await hosts.drain(call.context.writes, call.caller, call.text("HostId"), undo=call.args.get("Undo", False))
    return {}


@action(YUNTAI, "ForgiveHost", "HostId!", "Forgiven:i", operator=True)
async def forgive_host(call: Call) -> dict[str, Any]:
    """Forget how often a host failed lately, which ends its jail."""
    return {"Forgiven": await hosts.forgive(call.context.writes, call.caller, call.text("HostId"))}


@action(YUNTAI, "AwaitHost", "HostId! Minutes!:i", "AwaitedUntil", operator=True)
async def await_host(call: Call) -> dict[str, Any]:
    """Give a host that was off with all others more time to come back, or none."""
    minutes = int(call.args["Minutes"])
    return {"AwaitedUntil": await hosts.wait_for(call.context.writes, call.caller, call.text("HostId"), minutes)}


@action(YUNTAI, "LabelHost", "HostId! Label[]{Key! Value} Remove[]", "Labels[]{Key Value}", operator=True)
async def label_host(call: Call) -> dict[str, Any]:
    """Set and remove labels of a host."""
    labels = {one["Key"]: one.get("Value", "") for one in call.args.get("Label", ())}
    after = await hosts.label(
        call.context.writes, call.caller, call.text("HostId"), labels, call.texts("Remove")
    )  # fmt: skip
    return {"Labels": [{"Key": key, "Value": value} for key, value in sorted(after.items())]}


@action(YUNTAI, "RemoveHost", "HostId!", operator=True)
async def remove_host(call: Call) -> dict[str, Any]:
    """Forget a drained host, and its chunk servers where they are empty."""
    host_id = call.text("HostId")
    await hosts.check_drained(call.context.writes, host_id)
    for server in await call.context.writes.list(ChunkServer):
        if server.value.host == host_id:
            await call.context.volumes.remove_server(server.value.id)
    await hosts.remove(call.context.writes, call.caller, host_id)
    return {}


@action(
    YUNTAI,
    "CreateHostToken",
    "Minutes:i Pool Rack LowerBaseline:b",
    "Token TokenId Expires Pool",
    operator=True,
)
async def create_host_token(call: Call) -> dict[str, Any]:
    """Make a token with which one server can join, once."""
    token, secret = await joining.create_token(
        call.context.writes,
        call.caller,
        minutes=call.args.get("Minutes", 0),
        pool=call.text("Pool"),
        rack=call.text("Rack"),
        lower_baseline=call.args.get("LowerBaseline", False),
    )
    text = write_token(
        Token(
            endpoints=call.context.join_endpoints,
            fingerprint=call.context.join_fingerprint,
            id=token.id,
            secret=secret,
        )
    )
    return {"Expires": token.expires, "Pool": token.pool, "Token": text, "TokenId": token.id}
