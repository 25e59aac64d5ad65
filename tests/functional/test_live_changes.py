"""What changes of a guest while it runs, with a real one: disks and network cards, limits of disks and vCPUs.

And what needs a restart: its size.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.cloud import Cloud, running_cloud
from yuntai.cli.client import ECS

pytestmark = [pytest.mark.functional, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=1, racks=1) as made:
        yield made


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> str:
    instance = cloud.run_instance("changing")
    cloud.ssh(instance, "true")
    return instance


def shown(cloud: Cloud, instance: str) -> dict[str, Any]:
    rows = list(cloud.api.every(ECS, "DescribeInstances", "Instances", "Instance", InstanceIds=json.dumps([instance])))
    return rows[0]


def life_of(cloud: Cloud, instance: str) -> str:
    return cloud.ssh(instance, "cat /proc/sys/kernel/random/boot_id")


def cards(cloud: Cloud, instance: str) -> list[str]:
    return cloud.ssh(instance, "cat /sys/class/net/eth*/address").split()


def test_a_card_comes_and_goes_and_has_its_network(cloud: Cloud, guest: str) -> None:
    network = shown(cloud, guest)["VpcAttributes"]
    group = shown(cloud, guest)["SecurityGroupIds"]["SecurityGroupId"][0]
    made = json.loads(cloud.cli("nic", "create", "--vswitch", network["VSwitchId"], "--group", group, "-o", "json"))
    card, mac, ip = made["NetworkInterfaceId"], made["MacAddress"], made["PrivateIpAddress"]
    life = life_of(cloud, guest)
    cloud.cli("nic", "attach", card, guest, "--wait")
    cloud.until(lambda: mac in cards(cloud, guest), "the guest sees the card")
    name = cloud.ssh(guest, f"basename $(dirname $(grep -l {mac} /sys/class/net/eth*/address))")
    # Its logical port is bound here and the virtual switch answers. The lease is not used: a second card in the same
    # network would take the first one's routes.
    ask = f"ip link set {name} up; udhcpc -n -q -t 5 -i {name} -s /bin/true 2>&1; true"
    cloud.until(lambda: f"lease of {ip} obtained" in cloud.ssh(guest, ask), f"the card is offered {ip}")
    cloud.cli("nic", "detach", card, "--wait")
    cloud.until(lambda: mac not in cards(cloud, guest), "the guest has let go of the card")
    cloud.cli("nic", "delete", card)
    assert life_of(cloud, guest) == life, "the guest was restarted"


def device_of(cloud: Cloud, instance: str, disk: str) -> str:
    """Return what the guest calls a disk, "" if it has none of that serial number."""
    look = f"for one in /sys/block/vd*; do grep -qx {disk} $one/serial && basename $one; done; true"
    return cloud.ssh(instance, look)


def test_a_disk_comes_grows_and_goes_while_the_guest_runs(cloud: Cloud, guest: str) -> None:
    life = life_of(cloud, guest)
    disk = cloud.cli("disk", "create", "--size", "1", "--wait")
    cloud.cli("disk", "attach", disk, guest, "--wait")
    name = cloud.until(lambda: device_of(cloud, guest, disk), "the guest sees the disk")
    sectors = f"cat /sys/block/{name}/size"
    assert int(cloud.ssh(guest, sectors)) == 1 << 21
    write = f"dd if=/dev/shm/some of=/dev/{name} bs=1M oflag=direct seek="
    cloud.ssh(guest, f"head -c 1048576 /dev/urandom > /dev/shm/some && {write}0 2>&1")
    cloud.cli("disk", "resize", disk, "2")
    cloud.until(lambda: int(cloud.ssh(guest, sectors)) == 2 << 21, "the guest sees the new size")
    read = f"dd if=/dev/{name} bs=1M count=1 iflag=direct"
    sums = f"{write}2047 2>/dev/null; md5sum < /dev/shm/some; {read} | md5sum; {read} skip=2047 | md5sum"
    assert len(set(cloud.ssh(guest, f"({sums}) 2>/dev/null").splitlines())) == 1, "what is written is read"
    cloud.cli("disk", "detach", disk, guest, "--wait")
    assert device_of(cloud, guest, disk) == ""
    cloud.cli("disk", "delete", disk, "--wait")
    assert life_of(cloud, guest) == life, "the guest was restarted"


def disk_of(cloud: Cloud, instance: str) -> str:
    rows = list(cloud.api.every(ECS, "DescribeDisks", "Disks", "Disk", InstanceId=instance, DiskType="system"))
    return str(rows[0]["DiskId"])


def seconds(cloud: Cloud, instance: str, command: str) -> float:
    """Return how long a command takes by the guest's own clock."""
    text = cloud.ssh(
        instance, f"read a b < /proc/uptime; {command} >/dev/null 2>&1; read c b < /proc/uptime; echo $a $c"
    )
    before, after = (float(word) for word in text.split()[-2:])
    return after - before


def test_a_disk_is_limited_and_freed_while_it_is_used(cloud: Cloud, guest: str) -> None:
    disk = disk_of(cloud, guest)
    read = "dd if=/dev/vda of=/dev/null bs=4k count=200 skip=$((RANDOM % 1000)) iflag=direct"
    cloud.cli("disk", "limit", disk, "--iops", "20")
    cloud.until(lambda: limits(cloud, guest)[0] == 20, "QEMU has the limit")
    limited = seconds(cloud, guest, read)  # 200 operations at 20 in a second, less what a burst lets through
    assert limited > 5.0, f"200 reads took {limited:.1f} s at 20 IOPS"
    cloud.cli("disk", "limit", disk, "--iops", "0", "--mib-per-s", "7")
    cloud.until(lambda: limits(cloud, guest) == (0, 7 << 20), "QEMU has the other limit")
    cloud.cli("disk", "limit", disk, "--mib-per-s", "0")
    cloud.until(lambda: limits(cloud, guest) == (0, 0), "QEMU has no limit")


def limits(cloud: Cloud, instance: str) -> tuple[int, int]:
    """Return the limits of the system disk as QEMU has them: operations and bytes in a second."""
    text = cloud.inside("h1", "virsh", "blkdeviotune", instance, "vda")
    found = {name.strip(): value for name, _, value in (line.partition(":") for line in text.splitlines())}
    return int(found["total_iops_sec"]), int(found["total_bytes_sec"])


def test_vcpus_are_limited_while_they_compute(cloud: Cloud, guest: str) -> None:
    cloud.cli("instance", "limit", guest, "--vcpu-percent", "20")
    cloud.until(lambda: quota(cloud, guest) == 20_000, "the control group has the quota")
    cloud.ssh(guest, "(timeout 40 sh -c 'while :; do :; done' >/dev/null 2>&1 &) ; true")
    before, began_s = cpu_s(cloud, guest), time.monotonic()
    cloud.until(lambda: time.monotonic() - began_s > 5, "some seconds of computing")
    used = (cpu_s(cloud, guest) - before) / (time.monotonic() - began_s)
    assert used < 0.35, f"the vCPU used {used:.2f} of a CPU, 0.20 are allowed"
    cloud.cli("instance", "limit", guest, "--vcpu-percent", "0")
    cloud.until(lambda: quota(cloud, guest) < 0, "the control group has no quota")


def quota(cloud: Cloud, instance: str) -> int:
    text = cloud.inside("h1", "virsh", "schedinfo", instance)
    return next(int(line.split(":")[1]) for line in text.splitlines() if line.startswith("vcpu_quota"))


def cpu_s(cloud: Cloud, instance: str) -> float:
    """Return how long the guest's vCPU has run."""
    text = cloud.inside("h1", "virsh", "domstats", "--vcpu", instance)
    return next(int(line.split("=")[1]) / 1e9 for line in text.splitlines() if "vcpu.0.time" in line)


def test_an_instance_has_another_size_after_a_restart(cloud: Cloud, guest: str) -> None:
    life = life_of(cloud, guest)
    # More memory, not a second vCPU: a guest that was given one under QEMU's emulation stood still at its boot once.
    cloud.cli("instance-type", "create", "ecs.test.more", "--cpu", "1", "--memory", "512")
    cloud.cli("instance", "resize", guest, "--type", "ecs.test.more", "--restart")
    memory_kib = cloud.ssh(guest, "grep MemTotal /proc/meminfo | tr -dc 0-9")
    assert 400 < int(memory_kib) / 1024 <= 512
    assert life_of(cloud, guest) != life
    assert (shown(cloud, guest)["InstanceType"], shown(cloud, guest)["Memory"]) == ("ecs.test.more", 512)
