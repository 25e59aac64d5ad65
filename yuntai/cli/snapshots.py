"""``yuntai snapshot …``: take, delete, go back, groups, automatic policies, and the tree of a disk's snapshots."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from yuntai.cli import instances, storage
from yuntai.cli.client import ECS, Api, CliError
from yuntai.cli.output import Format, Output, Timeout, Wait, made, mib, one, out, rows, wait_for

app = typer.Typer(no_args_is_help=True, help="snapshots of disks")
group = typer.Typer(no_args_is_help=True, help="snapshots of several disks, taken at one moment")
policy = typer.Typer(no_args_is_help=True, help="automatic snapshots")
app.add_typer(group, name="group")
app.add_typer(policy, name="policy")

DiskId = Annotated[str, typer.Argument(metavar="DISK", help="the disk's id, d-…")]
SnapshotId = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="the snapshot's id, s-…")]
GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="the group's id, ssg-…")]
PolicyId = Annotated[str, typer.Argument(metavar="POLICY", help="the policy's id, sp-…")]
Disks = Annotated[list[str], typer.Argument(metavar="DISK...", help="ids of disks, d-…")]


@app.command("list")
def snapshot_list(
    of: Annotated[str, typer.Option("--disk", help="only those of this disk")] = "", output: Output = Format.table
) -> None:
    """List snapshots."""
    rows(
        Api().every(ECS, "DescribeSnapshots", "Snapshots", "Snapshot", DiskId=of),
        {
            "ID": lambda s: s["SnapshotId"],
            "NAME": lambda s: s["SnapshotName"],
            "STATUS": lambda s: s["Status"],
            "PROGRESS": lambda s: s["Progress"],
            "DISK": lambda s: s["SourceDiskId"],
            "SIZE": lambda s: f"{s['SourceDiskSize']} GiB",
            "CREATED": lambda s: s["CreationTime"],
        },
        output,
    )


def _snapshot(api: Api, snapshot_id: str) -> dict[str, object]:
    found = list(api.every(ECS, "DescribeSnapshots", "Snapshots", "Snapshot", SnapshotIds=f'["{snapshot_id}"]'))
    return found[0] if found else {}


@app.command("show")
def snapshot_show(snapshot_id: SnapshotId, output: Output = Format.table) -> None:
    """Show one snapshot."""
    found = _snapshot(Api(), snapshot_id)
    if not found:
        raise CliError(f"there is no snapshot {snapshot_id!r}; `yuntai snapshot list` shows all")
    one(found, output)


@app.command("create")
def snapshot_create(
    disk_id: DiskId,
    name: Annotated[str, typer.Option(help="name")] = "",
    wait: Wait = False,
    timeout: Timeout = 60,
    output: Output = Format.table,
) -> None:
    """Take a snapshot of a disk while it is used."""
    api = Api()
    made_id = api.ecs("CreateSnapshot", DiskId=disk_id, SnapshotName=name)["SnapshotId"]
    if wait:
        wait_for(made_id, lambda: str(_snapshot(api, made_id).get("Status", "")), "accomplished", timeout, ("failed",))
    made({"SnapshotId": made_id}, made_id, output)


@app.command("delete")
def snapshot_delete(
    snapshot_id: SnapshotId,
    force: Annotated[
        bool, typer.Option("--force", help="also one that disks were made of, even if they read it")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = 60,
) -> None:
    """Delete a snapshot, anywhere in the tree; its space is freed in the background."""
    api = Api()
    api.ecs("DeleteSnapshot", SnapshotId=snapshot_id, Force=force)
    if wait:
        wait_for(snapshot_id, lambda: str(_snapshot(api, snapshot_id).get("Status", "")), "", timeout)


@app.command("rollback")
def snapshot_rollback(snapshot_id: SnapshotId, wait: Wait = False, timeout: Timeout = 60) -> None:
    """Roll the snapshot's disk back to it; its instance must be stopped."""
    api = Api()
    found = _snapshot(api, snapshot_id)
    if not found:
        raise CliError(f"there is no snapshot {snapshot_id!r}; `yuntai snapshot list` shows all")
    disk_id = str(found["SourceDiskId"])
    api.ecs("ResetDisk", DiskId=disk_id, SnapshotId=snapshot_id)
    storage.settle_restored(api, disk_id, wait, timeout)


@app.command("tree")
def snapshot_tree(
    disk_id: DiskId,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="count the bytes now, rather than show the last count")
    ] = False,
    output: Output = Format.table,
) -> None:
    """Draw a disk's snapshots as a tree, with what each occupies (one replica of three).

    USED is in the snapshot itself, EXCLUSIVE what deleting it would free, SHARED what it shows and others show too.
    """
    tree = Api().operator("DescribeSnapshotTree", DiskId=disk_id, Fresh=fresh)
    if output is Format.json:
        out.print_json(json.dumps(tree))
        return
    known = bool(tree["Counted"])  # before the first count every figure is 0, which would be taken for true
    rows(
        draw(tree["Nodes"]),
        {
            "SNAPSHOT": lambda row: row["drawn"],
            "NAME": lambda row: row["SnapshotName"],
            "CREATED": lambda row: row["SnapshotCreated"],
            "USED": lambda row: mib(row["UsedBytes"]) if known else "?",
            "EXCLUSIVE": lambda row: mib(row["ExclusiveBytes"]) if known else "?",
            "SHARED": lambda row: mib(row["SharedBytes"]) if known else "?",
        },
        output,
    )
    if not known:
        out.print("not counted yet: --fresh counts", style="dim")
        return
    stale = "" if tree["Current"] else ", before the last change"
    freeing = f", {mib(tree['GarbageBytes'])} are being freed" if tree["GarbageBytes"] else ""
    out.print(f"{mib(tree['UsedBytes'])} in all, counted at {tree['Counted']}{stale}{freeing}", style="dim")


def draw(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes in the order of the tree, each with its branch ``drawn``."""
    children: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for node in nodes:
        children.setdefault((node["VolumeId"], node["Parent"]), []).append(node)
    roots = [node for node in nodes if node["Parent"] == -1]
    # A list in place of recursion: a chain may be a thousand deep, and one that does not branch is drawn without steps.
    todo = [(node, "", "") for node in reversed(roots)]
    lines = []
    while todo:
        node, lead, below = todo.pop()
        lines.append({**node, "drawn": lead + _title(node)})
        under = children.get((node["VolumeId"], node["Node"]), [])
        for index, child in reversed(list(enumerate(under))):
            if len(under) == 1:
                todo.append((child, below, below))
            else:
                last = index == len(under) - 1
                todo.append((child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))
    return lines


def _title(node: dict[str, Any]) -> str:
    titles = {
        "head": "● now",
        "root": "(from its source)",
        "branch": "(deleted)",
        "clone": f"(deleted, {len(node['Clones'])} clones still read it)",
    }
    return titles.get(node["Kind"]) or node["SnapshotId"] or f"node {node['Node']} of {node['VolumeId']}"


@group.command("create")
def group_create(
    instance: instances.Id,
    disk: Annotated[list[str] | None, typer.Option("--disk", help="only these disks of it")] = None,
    name: Annotated[str, typer.Option(help="name")] = "",
    wait: Wait = False,
    timeout: Timeout = 60,
    output: Output = Format.table,
) -> None:
    """Take snapshots of all disks of an instance at one moment, while it runs."""
    api = Api()
    asked = {"InstanceId": instances.find(api, instance)["InstanceId"], "DiskId": disk or [], "Name": name}
    group_id = api.ecs("CreateSnapshotGroup", **asked)["SnapshotGroupId"]
    if wait:
        wait_for(group_id, lambda: _group_status(api, group_id), "accomplished", timeout, ("failed",))
    made({"SnapshotGroupId": group_id}, group_id, output)


def _groups(api: Api, **wanted: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        answer = api.ecs("DescribeSnapshotGroups", MaxResults=100, NextToken=token, **wanted)
        found += answer["SnapshotGroups"]["SnapshotGroup"]
        token = answer["NextToken"]
        if not token:
            return found


def _group_status(api: Api, group_id: str) -> str:
    found = _groups(api, SnapshotGroupId=[group_id])
    return str(found[0]["Status"]) if found else ""


@group.command("list")
def group_list(output: Output = Format.table) -> None:
    """List groups of snapshots."""
    rows(
        _groups(Api()),
        {
            "ID": lambda g: g["SnapshotGroupId"],
            "NAME": lambda g: g["Name"],
            "STATUS": lambda g: g["Status"],
            "INSTANCE": lambda g: g["InstanceId"],
            "SNAPSHOTS": lambda g: ", ".join(s["SnapshotId"] for s in g["Snapshots"]["Snapshot"]),
            "CREATED": lambda g: g["CreationTime"],
        },
        output,
    )


@group.command("delete")
def group_delete(group_id: GroupId) -> None:
    """Delete the snapshots of a group."""
    outcome = Api().ecs("DeleteSnapshotGroup", SnapshotGroupId=group_id)["OperationProgressSet"]["OperationProgress"]
    if kept := [row["ErrorMsg"] for row in outcome if row["ErrorCode"]]:
        raise CliError("; ".join(kept))


@policy.command("create")
def policy_create(
    hours: Annotated[str, typer.Option(help="full hours of the day in UTC+8, such as 0,12")],
    days: Annotated[str, typer.Option(help="days of the week, 1 = Monday, such as 1,3,5")] = "1,2,3,4,5,6,7",
    keep: Annotated[int, typer.Option(help="days to keep each snapshot; -1 = for ever")] = 7,
    name: Annotated[str, typer.Option(help="name")] = "",
    output: Output = Format.table,
) -> None:
    """Make a policy; `apply` gives it to disks."""
    policy_id = Api().ecs(
        "CreateAutoSnapshotPolicy",
        timePoints=json.dumps(hours.split(",")),
        repeatWeekdays=json.dumps(days.split(",")),
        retentionDays=keep,
        autoSnapshotPolicyName=name,
    )["AutoSnapshotPolicyId"]
    made({"AutoSnapshotPolicyId": policy_id}, policy_id, output)


@policy.command("list")
def policy_list(output: Output = Format.table) -> None:
    """List policies."""
    rows(
        Api().every(ECS, "DescribeAutoSnapshotPolicyEx", "AutoSnapshotPolicies", "AutoSnapshotPolicy"),
        {
            "ID": lambda p: p["AutoSnapshotPolicyId"],
            "NAME": lambda p: p["AutoSnapshotPolicyName"],
            "HOURS": lambda p: ", ".join(json.loads(p["TimePoints"])),
            "DAYS": lambda p: ", ".join(json.loads(p["RepeatWeekdays"])),
            "KEPT": lambda p: "for ever" if p["RetentionDays"] == -1 else f"{p['RetentionDays']} days",
            "DISKS": lambda p: p["DiskNums"],
        },
        output,
    )


@policy.command("apply")
def policy_apply(policy_id: PolicyId, disks: Disks) -> None:
    """Give disks a policy, in place of the one that they had."""
    Api().ecs("ApplyAutoSnapshotPolicy", autoSnapshotPolicyId=policy_id, diskIds=json.dumps(disks))


@policy.command("cancel")
def policy_cancel(disks: Disks) -> None:
    """Take their policy from disks."""
    Api().ecs("CancelAutoSnapshotPolicy", diskIds=json.dumps(disks))


@policy.command("delete")
def policy_delete(policy_id: PolicyId) -> None:
    """Delete a policy; its snapshots stay for as long as they were to."""
    Api().ecs("DeleteAutoSnapshotPolicy", autoSnapshotPolicyId=policy_id)
