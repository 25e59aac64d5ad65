"""A snapshot's bytes out of the cloud, and a filled volume into it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.unit.api import raw_http
from tests.unit.api.fake_cloud import ACCOUNT, FakeCloud
from yuntai.model.base import now_utc
from yuntai.model.cluster import Volume
from yuntai.model.compute import Snapshot

YUNTAI = "2026-11-23"
SOURCE = "vol-00000000000000aa"


def ask(cloud: FakeCloud, action: str, **parameters: str) -> dict[str, Any]:
    answer = raw_http.rpc(cloud.target, action, version=YUNTAI, **parameters)
    assert answer.status == 200, answer.body
    return answer.json


def wait_until(look: Callable[[], object]) -> None:
    """Wait for the cached view, which follows by watch."""
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_volume(cloud: FakeCloud, volume: str) -> bool:
    return bool(ask(cloud, "DescribeVolumes", **{"VolumeId.1": volume})["Volumes"]["Volume"])


def status_of_snapshot(cloud: FakeCloud) -> list[str]:
    shown = raw_http.rpc(cloud.target, "DescribeSnapshots", SnapshotIds='["s-1"]').json["Snapshots"]["Snapshot"]
    return [one["Status"] for one in shown]


def seeded(cloud: FakeCloud) -> Snapshot:
    volume = Volume(
        id=SOURCE,
        size_bytes=4 << 30,
        parents=(0, 0, 1),
        head=2,
        snapshots={"1": "done"},
        snapshot_bytes={"1": 3 << 30},
        created=now_utc(),
    )
    snapshot = Snapshot(
        id="s-1",
        account=ACCOUNT,
        name="monday",
        disk="d-1",
        volume=SOURCE,
        node=1,
        size_gib=3,
        status="accomplished",
        created=now_utc(),
    )
    cloud.call(lambda: cloud.store.put(volume))
    cloud.call(lambda: cloud.store.put(snapshot))
    wait_until(lambda: has_volume(cloud, SOURCE) and status_of_snapshot(cloud) == ["accomplished"])
    return snapshot


def test_a_snapshot_is_opened_through_a_clone(cloud: FakeCloud) -> None:
    snapshot = seeded(cloud)
    opened = ask(cloud, "OpenSnapshot", SnapshotId="s-1", HostId="h1")
    assert (opened["VolumeId"], opened["Node"], opened["SizeBytes"]) == (SOURCE, 1, 3 << 30)
    assert (opened["DiskId"], opened["DiskKind"], opened["SnapshotName"]) == ("d-1", "data", "monday")
    assert opened["Export"] == opened["CloneId"] != SOURCE
    assert opened["Socket"].endswith(f"{opened['CloneId']}.sock")
    shown = ask(cloud, "DescribeVolumes", **{"VolumeId.1": opened["CloneId"]})["Volumes"]["Volume"][0]
    assert (shown["SourceVolume"], shown["SourceNode"], shown["ReadOnly"]) == (SOURCE, 1, True)

    def kept_until() -> str:
        return cloud.call(lambda: cloud.store.need(Volume, opened["CloneId"])).value.kept_until

    until = kept_until()
    assert until > now_utc(), "a killed export leaves nothing for ever"
    time.sleep(1.1)
    ask(cloud, "KeepVolume", VolumeId=opened["CloneId"])
    assert kept_until() > until

    assert ask(cloud, "DescribeSnapshotChanges", SnapshotId="s-1")["Changes"] == "7+2 100+16z"
    assert ask(cloud, "DescribeSnapshotChanges", SnapshotId="s-1", Since="0")["Changes"] == ""
    lost = raw_http.rpc(cloud.target, "DescribeSnapshotChanges", version=YUNTAI, SnapshotId="s-1", Since="5")
    assert lost.status == 409

    cloud.call(lambda: cloud.store.put(replace(snapshot, status="progressing")))
    wait_until(lambda: status_of_snapshot(cloud) == ["progressing"])
    early = raw_http.rpc(cloud.target, "OpenSnapshot", version=YUNTAI, SnapshotId="s-1", HostId="h1")
    assert early.code == (409, "IncorrectSnapshotStatus")
    none = raw_http.rpc(cloud.target, "OpenSnapshot", version=YUNTAI, SnapshotId="s-2", HostId="h1")
    assert none.code == (404, "InvalidSnapshotId.NotFound")
    tenant = raw_http.rpc(cloud.tenant, "OpenSnapshot", version=YUNTAI, SnapshotId="s-1", HostId="h1")
    assert tenant.status == 403


def test_a_filled_volume_becomes_a_disk_once(cloud: FakeCloud) -> None:
    volume = ask(cloud, "CreateVolume", SizeGib="3")["VolumeId"]
    wait_until(lambda: has_volume(cloud, volume))
    disk = ask(cloud, "RegisterDisk", VolumeId=volume, DiskName="restored")["DiskId"]
    assert ask(cloud, "RegisterDisk", VolumeId=volume)["DiskId"] == disk
    shown = raw_http.rpc(cloud.target, "DescribeDisks", DiskIds=f'["{disk}"]').json["Disks"]["Disk"][0]
    assert (shown["Status"], shown["Size"], shown["DiskName"], shown["Type"]) == ("Available", 3, "restored", "data")
    none = raw_http.rpc(cloud.target, "RegisterDisk", version=YUNTAI, VolumeId="vol-00000000000000bb")
    assert none.code == (404, "InvalidVolumeId.NotFound")
