"""The agent on the twins: records in a store in memory, guests in a hypervisor in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from yuntai.compute import agent as agent_module
from yuntai.compute.agent import Agent
from yuntai.compute.keeper import Keeper, guest_uuid, target_of
from yuntai.compute.memory import MemoryHypervisor
from yuntai.compute.volumes import MemoryVolumes
from yuntai.config import ChunkServer as ConfiguredServer
from yuntai.config import Config
from yuntai.model.cluster import ChunkServer, Gateway, Host
from yuntai.model.compute import Disk, Instance, ObservedInstance
from yuntai.model.network import Port
from yuntai.state import MemoryStore

ID = "i-0000000000000001"


def instance(**changes: object) -> Instance:
    base = Instance(
        id=ID, account="1", name="n", hostname="n", zone="z", instance_type="t", cpu=1, memory_mib=256, image="m-1",
        host="h1", vpc="vpc-1", vswitch="vsw-1", port="p-1", security_groups=(), system_disk="d-1", disks=("d-1",),
        created="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return replace(base, **changes)


def disk(number: int, **changes: object) -> Disk:
    base = Disk(
        id=f"d-{number}", account="1", zone="z", kind="system" if number == 1 else "data", size_gib=1,
        volume=f"vol-{number}", instance=ID, created="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return replace(base, **changes)


def port() -> Port:
    return Port(
        id="p-1", account="1", eni="eni-1", vpc="vpc-1", vswitch="vsw-1", mac="00:16:3e:00:00:01", ip="10.0.0.5",
        security_groups=(), instance=ID, created="2026-01-01T00:00:00Z",
    )  # fmt: skip


class World:
    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.hypervisor = MemoryHypervisor()
        self.volumes = MemoryVolumes()
        self.config = Config(
            cluster="lab", host="h1", address="10.78.0.1", etcd=["10.78.0.1:2379"], run_dir=str(folder / "run"),
            log_dir=str(folder / "log"), chunkservers=[ConfiguredServer(id=7, rack="rack-1", port=7101, path="/x")],
        )  # fmt: skip

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        made = Agent(self.store, self.hypervisor, self.volumes, self.config, "tcg")
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def records(self, *more: Instance | Disk | Port) -> None:
        for record in (disk(1), port(), *more):
            await self.store.put(record)

    async def observed(self, want: Callable[[ObservedInstance], bool]) -> ObservedInstance:
        return await eventually(lambda: self._observed(want))

    async def _observed(self, want: Callable[[ObservedInstance], bool]) -> ObservedInstance | None:
        found = await self.store.get(ObservedInstance, ID)
        return found.value if found is not None and want(found.value) else None

    async def change(self, **changes: object) -> None:
        await self.store.update(Instance, ID, lambda old: replace(old, **changes))

    def count(self, call: str) -> int:
        return sum(1 for one in self.hypervisor.calls if one[0] == call)


async def eventually(look: Callable[[], object], limit_s: float = 60.0) -> object:
    async with asyncio.timeout(limit_s):
        while True:
            found = look()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def state(name: str) -> Callable[[ObservedInstance], bool]:
    return lambda seen: seen.state == name


async def test_an_instance_starts_and_is_reported(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        seen = await world.observed(state("running"))
    assert seen.attached == ("d-1",)
    assert seen.boot_seq == 1
    assert seen.accelerator == "tcg"
    assert seen.console_log.endswith(f"/console/{ID}.log")
    spec = world.hypervisor.specs[ID]
    assert spec.uuid == guest_uuid(ID)
    assert spec.disks[0].socket == "/run/yuntai/nbd/vol-1.sock"
    assert spec.nic is not None
    assert spec.nic.mac == "00:16:3e:00:00:01"


async def test_an_instance_of_another_host_is_left_alone(world: World) -> None:
    await world.records(instance(host="h2"))
    async with world.agent():
        await asyncio.sleep(0.1)
    assert world.hypervisor.specs == {}


async def test_a_restart_of_the_agent_touches_no_guest(world: World) -> None:
    await world.records(instance(reboot_seq=3))
    async with world.agent():
        await world.observed(state("running"))
    world.hypervisor.calls.clear()
    await world.store.delete(ObservedInstance, ID)  # even with its notes lost
    async with world.agent():
        seen = await world.observed(state("running"))
        await asyncio.sleep(0.1)
    assert {call[0] for call in world.hypervisor.calls} <= {"guests", "cpu"}
    assert seen.reboot_seq == 3


async def test_stop_lets_the_guest_shut_down_and_then_the_volumes_go(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        await world.change(desired="stopped")
        seen = await world.observed(state("stopped"))
    assert seen.attached == ()
    assert world.count("press_power") == 1
    assert world.count("destroy") == 0
    assert world.volumes.attached == {}


async def test_force_stop_pulls_the_plug(world: World) -> None:
    await world.records(instance())
    world.hypervisor.deaf.add(ID)
    async with world.agent():
        await world.observed(state("running"))
        await world.change(desired="stopped", force_stop=True)
        await world.observed(state("stopped"))
    assert world.count("destroy") == 1


async def test_a_killed_guest_comes_back_by_itself(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        world.hypervisor.end(ID, "crashed")
        crashed = await world.observed(state("crashed"))
        seen = await world.observed(lambda one: one.state == "running" and one.boot_seq == 2)
    assert "crashed" in crashed.error
    assert seen.error == ""


async def test_a_guest_that_shuts_itself_down_stays_down_until_it_is_started(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        world.hypervisor.end(ID, "shutdown")
        await world.observed(state("stopped"))
        assert world.count("start") == 1
        await world.change(desired="stopped")  # what the control plane makes of it
        await eventually(lambda: world.volumes.attached == {})
        await world.change(desired="running")
        await world.observed(lambda one: one.state == "running" and one.boot_seq == 2)


async def test_after_the_host_was_off_the_guests_start_again(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
    world.hypervisor.restart_host()
    async with world.agent():
        await world.observed(lambda one: one.state == "running" and one.boot_seq == 2)


async def test_disks_are_plugged_and_unplugged(world: World) -> None:
    await world.records(instance(), disk(2, device="/dev/xvdc"))
    async with world.agent():
        await world.observed(state("running"))
        await world.change(disks=("d-1", "d-2"))
        await world.observed(lambda one: one.attached == ("d-1", "d-2"))
        assert world.volumes.attached["vol-2"] == ("h1", 1)
        await world.change(disks=("d-1",))
        await world.observed(lambda one: one.attached == ("d-1",))
        assert "vol-2" not in world.volumes.attached


async def test_a_running_guest_is_shown_a_grown_disk_once_it_has_grown(world: World) -> None:
    await world.records(instance())
    world.hypervisor.sizes["vol-1"] = 1 << 30
    async with world.agent():
        await world.observed(state("running"))
        # The record is ahead of the volume while the job works on it.
        await world.store.put(disk(1, size_gib=3, job="job-1"))
        await asyncio.sleep(0.1)
        assert world.count("grow_disk") == 0
        await world.store.put(disk(1, size_gib=3))
        await eventually(lambda: world.hypervisor.sizes["vol-1"] == 3 << 30)
        assert ("renew", "vol-1") in world.volumes.calls
        # What does not work now is no error of the instance, and is tried again when something changes.
        world.hypervisor.fail_next["grow_disk"] = "busy"
        await world.store.put(disk(1, size_gib=4))
        await eventually(lambda: "grow_disk" not in world.hypervisor.fail_next)
        await world.store.put(disk(1, size_gib=5))
        await eventually(lambda: world.hypervisor.sizes["vol-1"] == 5 << 30)
        assert (await world.observed(state("running"))).error == ""
    assert world.count("grow_disk") == 2


async def test_a_disk_record_that_comes_late_is_waited_for(world: World) -> None:
    await world.store.put(instance())
    await world.store.put(port())
    async with world.agent():
        seen = await world.observed(lambda one: bool(one.error))
        assert "d-1" in seen.error
        await world.store.put(disk(1))
        assert (await world.observed(state("running"))).error == ""


async def test_what_fails_is_said_and_tried_again(world: World) -> None:
    await world.records(instance())
    world.volumes.fail_next = "no placement answers"
    async with world.agent():
        await world.observed(lambda one: "no placement answers" in one.error)
        await world.observed(state("running"))


async def test_reboot_is_carried_out_once(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        await world.change(reboot_seq=1)
        await world.observed(lambda one: one.reboot_seq == 1)
        await asyncio.sleep(0.05)
    assert world.count("restart") == 1
    assert world.count("start") == 1


async def test_delete_leaves_nothing(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        seen = await world.observed(state("running"))
        log = Path(seen.console_log)
        await asyncio.to_thread(log.write_text, "boot\n")
        await world.change(desired="deleted")
        gone = await world.observed(state("absent"))
        assert gone.console_log == ""
        assert not await asyncio.to_thread(log.exists)
        assert await world.hypervisor.guests() == {}
        assert world.volumes.attached == {}
        await world.store.delete(Instance, ID)
        await eventually(lambda: _absent(world))


async def _absent(world: World) -> bool:
    return await world.store.get(ObservedInstance, ID) is None


async def test_a_guest_whose_instance_went_to_another_host_is_ended(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        await world.change(host="h2")
        await eventually(lambda: _no_guests(world))


async def test_an_instance_that_comes_back_while_its_keeper_ends_is_kept_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "RESYNC_S", 3600.0)
    forget = Keeper._forget_observed

    async def while_it_comes_back(keeper: Keeper) -> None:
        await forget(keeper)
        monkeypatch.setattr(Keeper, "_forget_observed", forget)
        await world.change(host="h1")
        await eventually(lambda: keeper._tools.records.instance(ID))

    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        monkeypatch.setattr(Keeper, "_forget_observed", while_it_comes_back)
        await world.change(host="h2")
        await eventually(lambda: world.count("start") == 2)
        await world.observed(state("running"))


async def test_a_guest_without_any_record_is_ended_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
    await world.store.delete(Instance, ID)
    await world.store.delete(ObservedInstance, ID)
    monkeypatch.setattr(agent_module, "RESYNC_S", 0.05)
    async with world.agent():
        await eventually(lambda: _no_guests(world))


async def _no_guests(world: World) -> bool:
    return await world.hypervisor.guests() == {}


async def test_a_paused_guest_is_resumed_after_an_io_error(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        world.hypervisor.fail_io(ID)
        await eventually(lambda: world.count("resume") == 1)


async def test_the_host_registers_itself_its_servers_and_its_gateway(world: World) -> None:
    await world.store.put(
        ChunkServer(id="cs-7", number=7, rack="old", host="h1", address="old", used_bytes=5, state="draining")
    )
    async with world.agent():
        await eventually(lambda: world.store.get(Host, "h1"))
    host = (await world.store.need(Host, "h1")).value
    assert host.status == "up"
    assert host.vcpus_max >= host.cpus > 0
    assert 0 < host.memory_mib_max < host.memory_mib
    server = (await world.store.need(ChunkServer, "cs-7")).value
    assert (server.rack, server.address, server.used_bytes, server.state) == ("rack-1", "10.78.0.1:7101", 5, "draining")
    assert (await world.store.need(Gateway, "h1")).value.address == "10.78.0.1:7200"


async def test_a_beat_keeps_what_others_say_of_the_host(world: World) -> None:
    async with world.agent():
        await eventually(lambda: world.store.get(Host, "h1"))
    await world.store.update(
        Host,
        "h1",
        lambda old: replace(
            old, maintenance="draining", status="down", seen="", awaited_since="then", awaited_until="later"
        ),
    )
    async with world.agent():
        await eventually(lambda: _seen(world))
    host = (await world.store.need(Host, "h1")).value
    assert (host.status, host.maintenance, host.guarded) == ("down", "draining", True)
    assert (host.awaited_since, host.awaited_until) == ("then", "later")


async def _seen(world: World) -> bool:
    return bool((await world.store.need(Host, "h1")).value.seen)


@pytest.mark.parametrize(
    ("device", "position", "taken", "target"),
    [
        ("", 0, set(), "vda"),
        ("/dev/xvdb", 3, {"vda"}, "vdb"),
        ("/dev/vdc", 1, {"vda"}, "vdc"),
        ("/dev/xvdb", 1, {"vda", "vdb"}, "vdc"),
        ("", 1, {"vda"}, "vdb"),
    ],
)
def test_device_names(device: str, position: int, taken: set[str], target: str) -> None:
    assert target_of(disk(2, device=device), position, taken) == target


async def test_an_instance_that_comes_back_is_not_kept_waiting_by_what_failed_before(world: World) -> None:
    """Its host was failed over and could not let go; now the instance is to run here again."""
    await world.records(instance())
    async with world.agent() as agent:
        keeper = Keeper(ID, agent._tools, None)
        keeper._situation(None, None)
        keeper._failures = 7
        keeper._situation(None, None)
        assert keeper._failures == 7
        keeper._situation(instance(), None)
        assert keeper._failures == 0
