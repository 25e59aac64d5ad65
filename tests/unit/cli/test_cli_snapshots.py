"""The commands on snapshots: groups, going back, policies, and the drawn tree."""

from __future__ import annotations

from typing import Any

from tests.unit.cli.test_cli_commands import Run, good, read, run
from yuntai.cli.snapshots import draw

__all__ = ["run"]  # fixtures


def test_going_back_groups_and_policies(run: Run) -> None:
    good(run("instance", "create", "--image", "debian-13", "--name", "snap-vm", "--wait"))
    disk = read(run("disk", "create", "--size", "1", "--wait", "-o", "json"))["DiskId"]
    taken = read(run("snapshot", "create", disk, "--wait", "-o", "json"))["SnapshotId"]
    good(run("disk", "reset", disk, taken, "--wait"))
    good(run("disk", "reinit", disk, "--wait"))
    good(run("disk", "reinit", disk, "--start", "--password", "Secret-123", "--wait"))
    assert run("disk", "reinit", disk, "--password", "weak").exit_code != 0
    good(run("snapshot", "rollback", taken, "--wait"))
    assert run("snapshot", "rollback", "s-none").exit_code != 0
    tree = good(run("snapshot", "tree", disk))
    assert taken in tree
    assert "● now" in tree
    assert "not counted yet" in tree
    assert "0.0 MiB" not in tree
    assert "counted at" in good(run("snapshot", "tree", disk, "--fresh"))
    assert read(run("snapshot", "tree", disk, "-o", "json"))["UsedBytes"] == 12288
    policy = read(run("snapshot", "policy", "create", "--hours", "0,12", "--keep", "30", "-o", "json"))
    good(run("snapshot", "policy", "apply", policy["AutoSnapshotPolicyId"], disk))
    assert "30 days" in good(run("snapshot", "policy", "list"))
    good(run("snapshot", "policy", "cancel", disk))
    good(run("snapshot", "policy", "delete", policy["AutoSnapshotPolicyId"]))
    good(run("snapshot", "delete", taken, "--force", "--wait"))
    group = read(run("snapshot", "group", "create", "snap-vm", "--wait", "-o", "json"))["SnapshotGroupId"]
    assert group in good(run("snapshot", "group", "list"))
    good(run("snapshot", "group", "delete", group))
    good(run("disk", "delete", disk))


def node(number: int, parent: int, kind: str = "snapshot", **fields: Any) -> dict[str, Any]:
    name = f"s-{number}" if kind == "snapshot" else ""
    return {"VolumeId": "v", "Node": number, "Parent": parent, "Kind": kind, "SnapshotId": name, "Clones": [], **fields}


def test_the_tree_is_drawn() -> None:
    nodes = [
        node(1, -1),
        node(2, 1, "branch"),
        node(3, 2),
        node(4, 3, "head"),
        node(5, 2, "clone", Clones=["a", "b"]),
        node(6, 1),
        node(9, -1, VolumeId="w"),
    ]
    assert [line["drawn"] for line in draw(nodes)] == [
        "s-1",
        "├─ (deleted)",
        "│  ├─ s-3",
        "│  │  ● now",
        "│  └─ (deleted, 2 clones still read it)",
        "└─ s-6",
        "s-9",
    ]


def test_a_thousand_are_drawn() -> None:
    chain = [node(number, number - 1 if number > 1 else -1) for number in range(1, 1001)]
    drawn = draw(chain)
    assert len(drawn) == 1000
    assert drawn[-1]["drawn"] == "s-1000"
