"""Volumes over NBD with the real gateway, real chunk servers and the clients that people use."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.functional.storage import CHUNK_BYTES, CHUNKSERVER, GATEWAY, MIB, Storage, Volume, qemu_io, run
from yuntai.pangu.wire import Refused

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
    pytest.mark.skipif(
        not all(map(shutil.which, ("fio", "nbdinfo", "nbdcopy", "qemu-io"))),
        reason="clients are missing: apt-get install fio libnbd-bin qemu-utils, or: make test",
    ),
]


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    one = Storage(tmp_path)
    try:
        await one.start()
        yield one
    finally:
        await one.stop()


async def fio(target: str, *options: str, timeout_s: float = 300.0) -> dict[str, float]:
    """Run one fio job against the volume; return its figures. Verification errors fail."""
    common = ("--name=job", "--ioengine=nbd", f"--uri={target}", "--output-format=json", "--verify_state_save=0")
    text = await run("fio", *common, *options, timeout_s=timeout_s)
    job = json.loads(text[text.index("{") :])["jobs"][0]
    assert job["error"] == 0, text[-2000:]
    return {
        "reads": job["read"]["total_ios"],
        "writes": job["write"]["total_ios"],
        "write_max_ms": job["write"]["clat_ns"]["max"] / 1e6 if job["write"]["total_ios"] else 0.0,
    }


VERIFY = (
    "--rw=randwrite",
    "--bsrange=512-64k",
    "--blockalign=512",
    "--iodepth=16",
    "--size=192m",
    "--io_size=400m",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--verify_backlog=512",
)


async def test_clients_see_a_disk(storage: Storage) -> None:
    volume = storage.create(256 * MIB)
    target = await storage.open(volume)
    path = storage.folder / "nbd" / f"{volume.export}.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    info = json.loads(await run("nbdinfo", "--json", target))["exports"][0]
    assert info["export-size"] == 256 * MIB
    assert tuple(info[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")) == (1, 4096, 32 * MIB)
    for feature in ("flush", "fua", "multi-conn", "zero", "trim", "df", "fast-zero"):
        await run("nbdinfo", "--can", feature, target)
    assert await run("nbdinfo", "--list", target)
    await qemu_io(
        target,
        *("write -P 0xab 0 64k", "read -P 0xab 0 64k", "write -z 4k 8k", "read -P 0 4k 8k", "read -P 0xab 12k 52k"),
        *("discard 32k 32k", "read -P 0 32k 32k", "flush", "aio_write -P 0xcd 1M 1M", "aio_flush"),
        *("read -P 0xcd 1M 1M", "write -f -P 0x11 513 1023", "read -P 0x11 513 1023", "read -P 0xab 0 513"),
        *(f"write -P 0x77 {CHUNK_BYTES - 700} 1500", f"read -P 0x77 {CHUNK_BYTES - 700} 1500", "read -P 0 100M 1M"),
    )
    found = json.loads(await run("nbdinfo", "--map", "--json", target))
    assert sum(extent["length"] for extent in found) == 256 * MIB
    assert {extent["type"] for extent in found} == {0, 3}
    assert sum(extent["length"] for extent in found if extent["type"] == 0) < 2 * MIB
    await run("qemu-img", "bench", "-f", "raw", "-c", "3000", "-d", "16", "-s", "4096", "-w", target)


async def test_a_copy_comes_back_the_same(storage: Storage) -> None:
    volume = storage.create(160 * MIB)
    target = await storage.open(volume)
    original, back = storage.folder / "a.img", storage.folder / "b.img"
    with original.open("wb") as out:
        out.write(os.urandom(40 * MIB + 512))
        out.seek(100 * MIB)
        out.write(os.urandom(3 * MIB))
        out.truncate(160 * MIB)
    await run("nbdcopy", "--flush", str(original), target)
    await run("nbdcopy", target, str(back))
    await run("cmp", str(original), str(back))
    await run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(original), target)
    stats = await storage.stats(volume)
    assert stats["counters"]["writes"] > 0
    assert stats["counters"]["write_us"]["count"] == stats["counters"]["writes"]


async def test_data_outlives_every_process(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    await qemu_io(target, "write -P 1 0 1M", "write -P 2 512 512", "flush")
    for number in (1, 2, 3):
        storage.kill(f"cs-{number}")
    storage.kill("gateway")
    for number in (1, 2, 3):
        storage.start_server(number)
    await storage.start_gateway()
    target = await storage.open(volume)
    await qemu_io(target, "read -P 1 0 512", "read -P 2 512 512", "read -P 1 1k 1023k")
    assert (await storage.close(volume))["flushed"] is True
    assert not (storage.folder / "nbd" / f"{volume.export}.sock").exists()


async def test_a_gateway_that_was_killed_does_not_know_what_is_durable(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    await qemu_io(target, "write -P 1 0 1M")
    storage.kill("gateway")
    await storage.start_gateway()
    assert (await storage.close(volume))["flushed"] is False
    await storage.open(volume)
    for _ in range(2):
        answer = await storage.close(volume)
        assert answer == {"flushed": True, "generation": volume.generation}, "whoever did not hear it asks again"
    volume.generation -= 1
    assert (await storage.close(volume))["flushed"] is False


async def test_a_chunk_server_dies_and_comes_back_under_load(storage: Storage) -> None:
    volume = storage.create(256 * MIB)
    target = await storage.open(volume)
    job = asyncio.create_task(fio(target, *VERIFY))
    await asyncio.sleep(1.5)
    storage.kill("cs-2")
    await asyncio.sleep(2)
    storage.start_server(2)
    figures = await job
    assert figures["writes"] > 1000
    assert volume.history[0] == "degrade 2"
    await storage.in_sync(volume)
    assert volume.history[-1] == "readmit 2"
    stats = await storage.stats(volume)
    assert stats["counters"]["longest_stall_us"] == 0, "nobody waited longer than a second"
    # What the returned one has is right: read it with the other two gone.
    await fio(target, "--rw=write", "--bs=64k", "--size=64m", "--verify=crc32c", "--do_verify=0")
    await storage.close(volume)
    target = await storage.open(volume, prefer=[2])
    await fio(target, "--rw=read", "--bs=64k", "--size=64m", "--verify=crc32c")


async def test_every_server_has_the_same_after_its_return(storage: Storage) -> None:
    volume = storage.create(192 * MIB)
    target = await storage.open(volume)
    for number in (1, 2, 3):
        job = asyncio.create_task(fio(target, *VERIFY[:-4], "--time_based", "--runtime=4", "--rate_iops=1500"))
        await asyncio.sleep(0.5)
        storage.kill(f"cs-{number}")
        await asyncio.sleep(1)
        storage.start_server(number)
        await job
        await storage.in_sync(volume)
    await storage.close(volume)
    await storage.replicas_are_equal(volume, (1, 2, 3))


async def test_a_hung_server_stalls_writes_for_about_a_second(storage: Storage) -> None:
    volume = storage.create(128 * MIB)
    target = await storage.open(volume)
    job = asyncio.create_task(
        fio(target, "--rw=randwrite", "--bs=4k", "--iodepth=4", "--size=64m", "--time_based", "--runtime=5")
    )
    await asyncio.sleep(1)
    storage.send("cs-3", signal.SIGSTOP)
    figures = await job
    assert volume.history == ["degrade 3"]
    assert 900 < figures["write_max_ms"] < 15_000
    storage.send("cs-3", signal.SIGCONT)
    await storage.in_sync(volume)


async def test_two_servers_lost_is_a_stall_and_no_error(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    await qemu_io(target, "write -P 1 0 64k")
    storage.kill("cs-1")
    storage.kill("cs-2")
    job = asyncio.create_task(qemu_io(target, "write -P 2 0 4k", "flush", "read -P 2 0 4k", "read -P 1 4k 60k"))
    async with asyncio.timeout(60):
        while not volume.stale:  # noqa: ASYNC110 — the gateway's event tells, and is answered by another task
            await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    assert not job.done()
    assert len(volume.stale) == 1
    storage.start_server(1)
    storage.start_server(2)
    await job
    await storage.in_sync(volume)


async def test_a_new_gateway_takes_over_and_the_old_one_is_refused(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    await qemu_io(target, "write -P 1 0 1M", "flush")
    # The old gateway hangs, as if its host were paused; a second one opens the volume elsewhere.
    second = Storage(storage.folder / "2")
    second.folder.mkdir()
    second.ports, second.secret, second.token_secret = storage.ports, storage.secret, storage.token_secret
    (second.folder / "cluster").write_text(storage.secret.hex())
    second.volumes = storage.volumes
    storage.send("gateway", signal.SIGSTOP)
    try:
        await second.start_gateway()
        fresh = await second.open(volume)
        await qemu_io(fresh, "read -P 1 0 1M", "write -P 2 0 4k")
        writer = asyncio.create_task(qemu_io(target, "write -P 3 0 4k"))
        await asyncio.sleep(0.2)
        storage.send("gateway", signal.SIGCONT)
        with pytest.raises(AssertionError):
            await writer
        await qemu_io(fresh, "read -P 2 0 4k", "read -P 1 4k 1020k")
        assert "fenced 0" in volume.history or "fenced" in volume.history
        status = await storage.channel.call({"op": "status"})
        assert status["volumes"] == []
        with pytest.raises(Refused):
            await storage.channel.call(storage.open_request(volume, generation=1, token=storage.token(volume, 1)), 3)
    finally:
        await second.stop()


async def test_a_killed_gateway_is_replaced_under_the_next_generation(storage: Storage) -> None:
    volume = storage.create(128 * MIB)
    target = await storage.open(volume)
    pattern = ("--rw=write", "--bs=16k", "--size=32m", "--verify=pattern", "--verify_pattern=%o", "--iodepth=16")
    await fio(target, *pattern, "--do_verify=0", "--end_fsync=1")
    noise = asyncio.create_task(
        fio(
            target,
            "--rw=randwrite",
            "--bs=4k",
            "--offset=64m",
            "--size=32m",
            "--iodepth=16",
            "--time_based",
            "--runtime=20",
        )
    )
    await asyncio.sleep(1)
    storage.kill("gateway")
    with pytest.raises(AssertionError):
        await noise
    await storage.start_gateway()
    begun = time.monotonic()
    target = await storage.open(volume)
    assert time.monotonic() - begun < 30
    await fio(target, *pattern, "--verify_only=1")
    first, second = storage.folder / "first", storage.folder / "second"
    await run("nbdcopy", target, str(first))
    await storage.close(volume)
    await run("nbdcopy", await storage.open(volume, prefer=[3]), str(second))
    await run("cmp", str(first), str(second))


async def test_a_clone_of_a_snapshot_taken_while_writing(storage: Storage) -> None:
    origin = storage.create(128 * MIB)
    target = await storage.open(origin)
    pattern = ("--verify=pattern", "--verify_pattern=%o", "--bs=64k")
    await fio(target, "--rw=write", "--size=80m", "--do_verify=0", *pattern)
    noise = asyncio.create_task(
        fio(target, "--rw=randwrite", "--bs=4k", "--offset=100m", "--size=16m", "--time_based", "--runtime=3")
    )
    await asyncio.sleep(1)
    frozen, answer = await storage.snapshot(origin)
    assert answer["pause_us"] < 1_000_000
    await noise
    await qemu_io(target, "write -P 9 0 1M")
    clone = storage.create(192 * MIB, (origin, frozen))
    begun = time.monotonic()
    copy = await storage.open(clone)
    assert time.monotonic() - begun < 20
    await qemu_io(copy, "read -P 0 130M 1M", "write -P 5 10M 512", "read -P 5 10M 512")
    check = ("--rw=read", "--verify_only=1", *pattern)
    await fio(copy, *check, "--size=8m")
    await hydrated(storage, clone)
    await storage.close(origin)
    clone.sources = []
    await fio(copy, *check, "--offset=16m", "--size=64m")
    await qemu_io(copy, "read -P 5 10M 512")
    await storage.close(clone)
    target = await storage.open(origin)
    await qemu_io(target, "read -P 9 0 1M")


async def hydrated(storage: Storage, volume: Volume) -> None:
    deadline = time.monotonic() + 60
    while volume.hydrated_chunks < volume.chunks:
        assert time.monotonic() < deadline, volume.history
        await asyncio.sleep(0.1)


async def test_a_hostile_client_stops_nobody(storage: Storage) -> None:
    volume, other = storage.create(64 * MIB), storage.create(64 * MIB)
    target, good = await storage.open(volume), await storage.open(other)
    path = target.split("socket=")[1]
    held = []
    for noise in (b"", b"\0" * 4, b"\xff" * 64, b"\0\0\0\3IHAVEOPT" + b"\xff" * 8, os.urandom(4096)):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        one.send(noise)
        held.append(one)
    for _ in range(40):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        held.append(one)
    await qemu_io(good, "write -P 1 0 4M", "read -P 1 0 4M", "flush")
    for one in held:
        one.close()
    await asyncio.sleep(0.2)
    await qemu_io(target, "write -P 1 0 4k", "read -P 1 0 4k")


async def test_growing_and_the_end_of_the_disk(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    volume.size_bytes = 160 * MIB
    request = {
        "op": "resize",
        "volume": volume.number,
        "generation": volume.generation,
        "size_bytes": volume.size_bytes,
        "placement": storage.placement(volume),
        "servers": storage.addresses(),
    }
    await storage.channel.call(request)
    await qemu_io(target, "write -P 4 150M 1M", "read -P 4 150M 1M")
    assert json.loads(await run("nbdinfo", "--json", target))["exports"][0]["export-size"] == 160 * MIB
    with pytest.raises(Refused, match="never shrinks"):
        await storage.channel.call({**request, "size_bytes": 64 * MIB, "placement": request["placement"][:1]})


async def test_a_stop_flushes_and_clients_come_back(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    server = {"type": "unix", "path": target.split("socket=")[1]}
    image = "json:" + json.dumps({"driver": "nbd", "server": server, "export": volume.export, "reconnect-delay": 30})
    job = asyncio.create_task(run("qemu-img", "bench", "-c", "60000", "-d", "8", "-s", "4096", "-w", image))
    await asyncio.sleep(1)
    assert storage.kill("gateway", signal.SIGTERM) == 0
    await storage.start_gateway()
    await storage.open(volume)
    await job


async def test_what_cannot_be_served_is_refused_by_name(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    volume.generation = 1
    for change, words in (
        ({"size_bytes": 100}, "size_bytes 100"),
        ({"placement": []}, "placement has 0 chunks"),
        ({"placement": [[1, 2, 9]]}, "server 9"),
        ({"export": "../x"}, "export"),
        ({"head": 7}, "head 7"),
    ):
        with pytest.raises(Refused, match=words):
            await storage.channel.call(storage.open_request(volume, **change))
    with pytest.raises(Refused, match="not open here"):
        await storage.channel.call({"op": "snapshot", "volume": 1, "generation": 1, "parents": [0, 0], "head": 1})
    assert (await storage.close(volume))["flushed"] is False, "nobody here knows what was not open"


async def test_unanswered_events_reach_the_next_master(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    target = await storage.open(volume)
    await qemu_io(target, "write -P 1 0 64k")
    assert storage._events is not None
    storage._events.cancel()  # a master that hears and does not answer
    storage.kill("cs-1")
    job = asyncio.create_task(qemu_io(target, "write -P 2 0 4k"))
    await asyncio.sleep(1.5)
    assert not job.done()
    await storage.dial("master:second")
    await job
    assert volume.stale == {1}
