"""Instances, disks, images, snapshots: what a tenant owns of compute and storage."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from yuntai.model.base import Record

InstanceStatus = Literal["Pending", "Starting", "Running", "Stopping", "Stopped", "Deleting"]
DesiredState = Literal["running", "stopped", "deleted"]
ObservedState = Literal["absent", "starting", "running", "stopping", "stopped", "crashed"]
DiskStatus = Literal["Creating", "Available", "Attaching", "In_use", "Detaching", "ReIniting", "Deleting"]
SnapshotStatus = Literal["progressing", "accomplished", "failed", "deleting"]
ImageStatus = Literal["Creating", "Available", "CreateFailed", "Deleting"]


class Instance(Record, frozen=True, kw_only=True):
    """A virtual machine.

    ``host``, ``desired`` and ``reboot_seq`` are read by the agent; ``status`` is what the API shows.
    """

    KIND: ClassVar[str] = "instance"

    account: str
    name: str
    hostname: str
    description: str = ""
    zone: str
    instance_type: str
    cpu: int
    memory_mib: int
    image: str
    status: InstanceStatus = "Pending"
    desired: DesiredState = "running"
    host: str = ""
    vpc: str
    vswitch: str
    port: str  # id of the primary Port (its OVN logical port name, a UUID)
    security_groups: tuple[str, ...]
    system_disk: str
    disks: tuple[str, ...] = ()  # every attached disk in device order, the system disk first
    user_data: str = ""  # base64, as the API takes and gives it
    key_pair: str = ""
    password_hash: str = ""  # crypt(3) SHA-512; the clear text is never stored
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str
    started: str = ""
    deletion_protection: bool = False
    restart_policy: Literal["always", "never"] = "always"
    stopped_mode: str = "Not-applicable"
    reboot_seq: int = 0  # the agent resets the guest when this is above what it last observed
    force_stop: bool = False
    reason: str = ""  # why the instance is where it is, for a person ("no host fits: …")
    job: str = ""  # the unfinished job that moves it, so that an older job knows that it no longer does
    placed_why: str = ""  # why its host was chosen, for a person
    migrating_to: str = ""  # while it moves: the host that holds room for it too
    deployment_set: str = ""
    deployment_set_group: int = 0  # of an AvailabilityGroup set: 1 to its number of groups
    dedicated_host: str = ""  # it is placed there and nowhere else; "" = on hosts that are nobody's
    priority: int = 50  # 1 to 100: when not all that was lost fits, higher ones are brought back first
    action_on_maintenance: Literal["Stop", "AutoRecover", "AutoRedeploy"] = "AutoRecover"
    maintenance_windows: tuple[tuple[str, str], ...] = ()  # of a day, "02:00:00" to "04:00:00"; () = at any time
    notify_on_maintenance: bool = False
    cpu_features: tuple[str, ...] = ()  # what its guest was last started with; () = not known
    mce_banks: int = 0
    ports: tuple[str, ...] = ()  # ids of further Ports (secondary network cards) in the order of attaching
    vcpu_quota_percent: int = 0  # of one CPU for each vCPU; 0 = no limit


class ObservedInstance(Record, frozen=True, kw_only=True):
    """What the agent of ``host`` sees of an instance; written only by that agent."""

    KIND: ClassVar[str] = "observed"

    host: str
    state: ObservedState
    since: str
    boot_seq: int = 0  # starts of this guest so far
    reboot_seq: int = 0  # the last Instance.reboot_seq carried out
    attached: tuple[str, ...] = ()  # disks that the running guest really has
    nics: tuple[str, ...] = ()  # Ports that the running guest really has, the primary one among them
    console_log: str = ""  # path on the host
    error: str = ""
    accelerator: Literal["", "kvm", "tcg"] = ""


class InstanceEvent(Record, frozen=True, kw_only=True):
    """Something that happened to an instance, or is planned, as DescribeInstanceHistoryEvents shows it."""

    KIND: ClassVar[str] = "instance_event"

    account: str
    instance: str
    type: str  # as the ECS API names it: "SystemFailure.Reboot", "SystemMaintenance.Redeploy" …
    cycle: Literal["Scheduled", "Executing", "Executed", "Avoided", "Canceled", "Failed", "Inquiring"] = "Executed"
    reason: str = ""
    from_host: str = ""
    to_host: str = ""
    published: str
    not_before: str = ""
    finished: str = ""
    simulated: bool = False

    @property
    def created(self) -> str:
        """When it was published; lists are in this order."""
        return self.published


class Migration(Record, frozen=True, kw_only=True):
    """A live migration of the instance ``id``, as control wants it; :class:`MigrationProgress` says how far it is."""

    KIND: ClassVar[str] = "migration"

    job: str  # the job that drives it, which also tells a new attempt from an old one
    source: str
    destination: str
    address: str  # where the destination listens for it
    phase: Literal["prepare", "move", "finish", "undo"]
    cancel: bool = False
    post_copy: bool = False  # if nothing else helps, the guest's memory may be on both hosts for a while
    created: str


class MigrationProgress(Record, frozen=True, kw_only=True):
    """What the hosts of a migration report; ``id`` is ``<instance>.<host>``, written only by that host's agent."""

    KIND: ClassVar[str] = "migration_progress"

    job: str
    state: Literal["preparing", "ready", "moving", "moved", "failed", "undone"]
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    dirty_bytes_per_s: int = 0
    eta_s: float = -1.0  # -1 = not known
    downtime_ms: float = -1.0
    stage: str = ""  # the rung of the ladder: "", "auto-converge", "downtime", "post-copy"
    throttle_percent: int = 0  # how much of the time its vCPUs are held, so that it changes less memory
    waits_for: str = ""
    error: str = ""


class Disk(Record, frozen=True, kw_only=True):
    """An elastic disk; its bytes are the Pangu volume ``volume``."""

    KIND: ClassVar[str] = "disk"

    account: str
    name: str = ""
    description: str = ""
    zone: str
    category: str = "cloud_essd"
    kind: Literal["system", "data"]
    size_gib: int
    status: DiskStatus = "Creating"
    volume: str
    instance: str = ""
    device: str = ""  # /dev/vdb …
    delete_with_instance: bool = True
    source_snapshot: str = ""
    source_image: str = ""
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str
    attached_time: str = ""
    detached_time: str = ""
    policy: str = ""  # the automatic snapshot policy that is applied to it
    policy_since: str = ""  # times of the policy up to this one are over: applied later, or its snapshot was taken
    job: str = ""  # the unfinished job that works on it
    reason: str = ""  # why the last operation on it failed
    iops_max: int = 0  # 0 = no limit
    bytes_per_s_max: int = 0


class Snapshot(Record, frozen=True, kw_only=True):
    """A snapshot: node ``node`` of the layer tree of volume ``volume``."""

    KIND: ClassVar[str] = "snapshot"

    account: str
    name: str = ""
    description: str = ""
    disk: str
    disk_kind: Literal["system", "data"] = "data"
    volume: str
    node: int = 0
    size_gib: int
    status: SnapshotStatus = "progressing"
    progress: int = 0  # percent
    reason: str = ""  # why it failed
    group: str = ""  # the group that it was taken with
    policy: str = ""  # the automatic snapshot policy by which it was taken; "" = somebody asked for it
    retention_days: int = 0  # it is deleted when it is older; 0 = it is kept
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class SnapshotGroup(Record, frozen=True, kw_only=True):
    """Snapshots of several disks of one instance, taken at one moment."""

    KIND: ClassVar[str] = "snapshot_group"

    account: str
    name: str = ""
    description: str = ""
    instance: str = ""
    snapshots: tuple[str, ...]
    status: SnapshotStatus = "progressing"
    reason: str = ""  # why it failed
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class AutoSnapshotPolicy(Record, frozen=True, kw_only=True):
    """When snapshots are taken of the disks that it is applied to, and how long they are kept."""

    KIND: ClassVar[str] = "auto_snapshot_policy"

    account: str
    name: str = ""
    time_points: tuple[int, ...]  # full hours of the day, 0 to 23, in UTC+8 as the ECS API has it
    weekdays: tuple[int, ...]  # 1 = Monday … 7 = Sunday
    retention_days: int  # -1 = for ever
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class ImageDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A data disk of an image: what instances made of the image get beside the system disk."""

    snapshot: str
    volume: str
    node: int = 0
    size_gib: int
    device: str = ""


class Image(Record, frozen=True, kw_only=True):
    """A bootable image: a frozen node of a volume. ``account`` "" = a public image of the system."""

    KIND: ClassVar[str] = "image"

    account: str = ""
    name: str
    description: str = ""
    os_type: Literal["linux", "windows"] = "linux"
    os_name: str = ""
    architecture: str = "x86_64"
    volume: str = ""
    node: int = 0
    size_gib: int
    status: ImageStatus = "Creating"
    progress: int = 0
    checksum: str = ""  # "sha256:…" of the imported file
    source_snapshot: str = ""  # made from this snapshot, which owns the node then
    source_instance: str = ""
    data_disks: tuple[ImageDisk, ...] = ()
    reason: str = ""  # why its creation failed
    owner_alias: Literal["system", "self"] = "system"
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class KeyPair(Record, frozen=True, kw_only=True):
    """An SSH public key. ``id`` is ``<account>:<name>``; the private key is shown once and never stored."""

    KIND: ClassVar[str] = "keypair"

    account: str
    name: str
    public_key: str
    fingerprint: str
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class InstanceType(Record, frozen=True, kw_only=True):
    """One row of the operator's table of instance types."""

    KIND: ClassVar[str] = "instance_type"

    family: str
    cpu: int
    memory_mib: int
    nics: int = 4  # network cards at most, the primary one included


# What the table begins with. It is read from the store, see yuntai.control.instance_types.
INSTANCE_TYPES: dict[str, InstanceType] = {
    t.id: t
    for t in (
        InstanceType(id="ecs.yt1.nano", family="ecs.yt1", cpu=1, memory_mib=256),
        InstanceType(id="ecs.yt1.micro", family="ecs.yt1", cpu=1, memory_mib=512),
        InstanceType(id="ecs.yt1.small", family="ecs.yt1", cpu=1, memory_mib=1024),
        InstanceType(id="ecs.yt1.medium", family="ecs.yt1", cpu=2, memory_mib=2048),
        InstanceType(id="ecs.yt1.large", family="ecs.yt1", cpu=2, memory_mib=4096),
        InstanceType(id="ecs.yt1.xlarge", family="ecs.yt1", cpu=4, memory_mib=8192),
    )
}
