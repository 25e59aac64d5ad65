"""A cloud of three hosts of which one runs the release before: instances are made, moved and failed over all the same.

For whoever makes a release: ``YUNTAI_TEST_OLDER`` names a checkout of the release before, with its ``.venv`` and
native module as ``make`` leaves them. The Rust programs are this release's on every host.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from msgspec.structs import replace

from tests.functional.cloud import READY_S, Cloud, running_cloud
from tests.functional.test_failover import _runs_elsewhere
from tests.functional.test_migration_faults import settled, until
from yuntai.lab.supervisor import Supervisor
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance
from yuntai.state import EtcdStore

OLDER = os.environ.get("YUNTAI_TEST_OLDER", "")
pytestmark = [
    pytest.mark.functional,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not OLDER, reason="YUNTAI_TEST_OLDER names no checkout of the release before"),
]
NEW, OLD, OTHER = "h1", "h2", "h3"


def restart_older(cloud: Cloud, host: str) -> None:
    """Start the host anew with the release before."""
    code = f"import pathlib; from yuntai.lab import faults; faults.restart(pathlib.Path({str(cloud.root)!r}), {host!r})"
    older = {**os.environ, "PYTHONPATH": OLDER}
    subprocess.run([sys.executable, "-c", code], cwd=OLDER, env=older, timeout=READY_S, check=True)
    cloud.wait_up()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=3) as made:
        restart_older(made, OLD)
        yield made


@pytest.fixture
async def store(cloud: Cloud) -> AsyncIterator[EtcdStore]:
    async with cloud.store() as made:
        yield made


def test_the_hosts_differ(cloud: Cloud) -> None:
    look = ("grep", "-rl", "awaited_until", "/opt/yuntai/src/yuntai/model")
    assert cloud.inside(NEW, *look)
    assert not cloud.inside(OLD, "sh", "-c", f"{' '.join(look)} || true").strip(), "choose an older release"


async def test_an_older_agent_keeps_what_it_does_not_know(cloud: Cloud, store: EtcdStore) -> None:
    said = "2001-01-01T00:00:00Z"
    before = await store.update(Host, OLD, lambda old: replace(old, awaited_until=said))

    async def has_reported() -> bool:
        return (await store.need(Host, OLD)).value.seen > before.seen

    for _ in range(2):
        await until(has_reported, f"{OLD} reports")
        before = (await store.need(Host, OLD)).value
        assert before.awaited_until == said


async def move(cloud: Cloud, store: EtcdStore, instance: str, to: str) -> None:
    answer = await asyncio.to_thread(cloud.api.operator, "MigrateInstance", InstanceId=instance, HostId=to)
    print(f"{instance} moves to {to}: {answer['JobId']}")

    async def there() -> bool:
        found = (await store.need(Instance, instance)).value
        assert found.job or found.host == to, found.reason
        return found.host == to

    await until(there, f"{instance} is on {to}")
    assert await settled(store, instance) == to


@pytest.mark.parametrize("leader", [NEW, OLD])
async def test_instances_are_made_and_moved_and_failed_over(cloud: Cloud, store: EtcdStore, leader: str) -> None:
    """Once as this release's control decides, once as the older one's does."""
    others = [host for host in cloud.hosts if host != leader]
    for host in others:
        Supervisor(cloud.home.host(host).supervisor_socket).stop_if_present("control")
    instance = await asyncio.to_thread(cloud.run_instance, f"mixed-{leader}")
    await asyncio.to_thread(cloud.ssh, instance, "echo kept > /root/file; sync")
    for host in (NEW, OLD, OTHER, OLD):
        if (await store.need(Instance, instance)).value.host != host:
            await move(cloud, store, instance, host)
    if leader == OLD:
        await move(cloud, store, instance, OTHER)
    source = (await store.need(Instance, instance)).value.host
    await asyncio.to_thread(cloud.kill, source)
    began_s = time.monotonic()
    await _runs_elsewhere(cloud, instance, source)
    print(f"leader {leader}, {source} killed: runs elsewhere after {time.monotonic() - began_s:.1f} s")
    assert await asyncio.to_thread(cloud.ssh, instance, "cat /root/file") == "kept"
    for host in set(others) - {source}:
        Supervisor(cloud.home.host(host).supervisor_socket).start("control")
    await asyncio.to_thread(restart_older if source == OLD else Cloud.restart, cloud, source)
    await asyncio.to_thread(cloud.wait_up)
    await asyncio.to_thread(cloud.forgive)
    await asyncio.to_thread(cloud.cli, "instance", "delete", instance, "--force", "--wait")
