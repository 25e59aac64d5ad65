"""Hosts, chunk servers, gateways, volumes, accounts, jobs: what the operator owns."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from yuntai.model.base import Record


class Account(Record, frozen=True, kw_only=True):
    """A tenant."""

    KIND: ClassVar[str] = "account"

    name: str
    created: str
    # limits that differ from the product's, by name
    quotas: dict[str, int] = msgspec.field(default_factory=dict)


class AccessKey(Record, frozen=True, kw_only=True):
    """An API key. ``id`` is the AccessKeyId. The secret must be known in clear to check an HMAC; it is never logged."""

    KIND: ClassVar[str] = "accesskey"

    account: str
    secret: str
    status: Literal["Active", "Inactive"] = "Active"
    operator: bool = False  # may call the operator's actions
    created: str


class Host(Record, frozen=True, kw_only=True):
    """A compute host: what its agent reports of it, what control judges, and what the operator wants of it.

    Each part has one writer; the others keep what they find (:mod:`yuntai.compute.hostrecord`).
    """

    KIND: ClassVar[str] = "host"

    # as its agent reports
    address: str
    rack: str = ""
    cpus: int
    memory_mib: int
    accelerator: Literal["kvm", "tcg"]
    cpu_model: str = ""
    cpu_vendor: str = ""
    cpu_features: tuple[str, ...] = ()  # what a guest here can have, named as libvirt does, sorted
    mce_banks: int = 0  # machine-check banks that a guest here finds; 0 = not known
    mce_banks_hardware: int = 0  # … and that the processor itself has; 0 = not known
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    boot: str = ""  # another one after every start of the host
    guarded: bool = False  # a guard runs here: it holds the host's lease, and is first to look after a pause
    storage_dead_since: str = ""  # since when its gateway reaches no quorum although others do; "" = it does
    seen: str
    vcpus_max: int  # what the scheduler may hand out (overcommit included)
    memory_mib_max: int
    # as control judges
    status: Literal["up", "down"] = "up"
    downs: tuple[str, ...] = ()  # when it was called down lately, oldest first: a host that flaps is jailed
    jailed_until: str = ""  # nothing is placed on it before
    awaited_since: str = ""  # away since all hosts were: when it was decided that it is given time to come back …
    awaited_until: str = ""  # … and how long; it is not called failed before
    # as the operator wants
    maintenance: Literal["", "draining", "drained"] = ""
    waiting: dict[str, str] = msgspec.field(default_factory=dict)  # draining: instance → why it is still there
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    pool: str = "default"  # hosts among which guests may move: they share a CPU baseline
    dedicated: str = ""  # the dedicated host that this one is: only instances that ask for it are placed here


HOST_LEASE_S = 5.0
"""How long a host may say nothing: its guard renews its lease three times in this."""


class HostAlive(Record, frozen=True, kw_only=True):
    """There as long as the host ``id`` renews its lease: written by its guard under that lease and by nobody else."""

    KIND: ClassVar[str] = "host_alive"

    address: str
    since: str
    booted: str = ""  # when the host started; "" = an older guard, which does not say


class HostFailure(Record, frozen=True, kw_only=True):
    """The last failure of the host ``id``, as control's leader saw it and dealt with it."""

    KIND: ClassVar[str] = "host_failure"

    state: Literal["failing over", "waiting for room", "over"]
    why: str  # the evidence, in words
    began: str  # when its lease was missed, or its storage was reported dead
    judged: str  # when it was called failed
    ended: str = ""  # when the last of its instances ran elsewhere
    back: str = ""  # when the host lived again
    moved: int = 0
    waiting: int = 0
    left: tuple[tuple[str, str], ...] = ()  # the first of those that wait: instance and why
    stages_ms: dict[str, int] = msgspec.field(default_factory=dict)


class HostPool(Record, frozen=True, kw_only=True):
    """Hosts among which guests may move, and the CPU that every guest in it gets: what all of them can do."""

    KIND: ClassVar[str] = "host_pool"

    cpu_model: str = ""
    cpu_vendor: str = ""
    cpu_features: tuple[str, ...] = ()
    mce_banks: int = 0
    accelerator: Literal["", "kvm", "tcg"] = ""  # no guest moves from one to the other
    computed: str = ""  # when, for a person


class ChunkServer(Record, frozen=True, kw_only=True):
    """A chunk server (one per physical disk). ``id`` is ``cs-<number>``; the number is its id on the wire."""

    KIND: ClassVar[str] = "chunkserver"

    number: int
    rack: str
    host: str
    address: str  # "10.78.0.1:7101"
    state: Literal["up", "down", "draining"] = "up"
    used_bytes: int = 0
    free_bytes: int = 0
    total_bytes: int = 0
    replicas: int = 0
    pid: int = 0
    version: str = ""
    seen: str = ""
    store: str = ""  # the name of the store on its disk; another one means that the disk was replaced
    admitted: bool = True  # gateways are let in; false while a new store waits until nothing counts on the old one
    down_since: str = ""  # while it does not answer: since when
    given_up: str = ""  # since when its disk is declared lost; "" once a store of it was admitted (again)


class Gateway(Record, frozen=True, kw_only=True):
    """The volume gateway of one host. ``id`` is the host's id."""

    KIND: ClassVar[str] = "gateway"

    address: str  # control channel, "10.78.0.1:7200"
    nbd_dir: str = "/run/yuntai/nbd"


class VolumeSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where blocks that a volume does not have yet come from: node ``node`` of volume ``volume``."""

    volume: str
    node: int


class Volume(Record, frozen=True, kw_only=True):
    """A Pangu volume: the master's record.

    The layer tree is ``parents``: the index is a layer, the value its parent, layer 0 the root.
    """

    KIND: ClassVar[str] = "volume"

    size_bytes: int
    state: Literal["available", "attached", "deleting"] = "available"
    generation: int = 0
    host: str = ""  # the gateway that holds the current generation
    read_only: bool = False
    parents: tuple[int, ...] = (0, 0)
    head: int = 1
    # node (as text) → state
    snapshots: dict[str, Literal["pending", "done"]] = msgspec.field(default_factory=dict)
    source: VolumeSource | None = None
    hydrated_chunks: int = 0  # chunks [0, n) no longer need the source
    # chunk-server number (as text) → reason it left the in-sync set
    stale: dict[str, str] = msgspec.field(default_factory=dict)
    read_node: int = -1  # the node that a read-only attachment shows; -1 = the head
    unwritten: bool = False  # never attached for writing: its head shows what layer 0 does
    # node (as text) → size of the volume when it was frozen
    snapshot_bytes: dict[str, int] = msgspec.field(default_factory=dict)
    unfenced: bool = False  # detached by force; until the next one that writer may be at work, what it left not durable
    # node (as text) → the caller's name for it, which makes a retry find it
    snapshot_names: dict[str, str] = msgspec.field(default_factory=dict)
    deleted_on: tuple[int, ...] = ()  # while deleting: the chunk servers that have confirmed it
    # chunk-server number (as text) → how many layers were dead when it had freed all that it could
    swept: dict[str, int] = msgspec.field(default_factory=dict)
    group: tuple[str, ...] = ()  # while a snapshot is pending: the volumes that its gateway is to switch with this one
    rollbacks: tuple[str, ...] = ()  # the callers' tokens of the last ones, so that a retry does not roll back twice
    tended_by: str = ""  # while not attached: the gateway that has it open under this generation, to repair or hydrate
    kept_until: str = ""  # an auxiliary volume, such as an export reads: deleted when nobody asked to keep it longer
    handover_to: str = ""  # while its guest moves: the host that may take it, see yuntai.pangu.takeover_rules
    handover_ticket: str = ""  # and in which migration
    placed: int = 0  # moves committed so far; whoever decides by the placement compares this record
    created: str


class NodeUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer of a volume occupies, in bytes of one replica."""

    bytes: int = 0
    exclusive_bytes: int = 0  # no other live layer shows them: what deleting it would free
    visible_bytes: int = 0  # what one sees when reading as of it


class VolumeUsage(Record, frozen=True, kw_only=True):
    """What a volume's layers occupied when they were last counted; ``id`` is the volume's."""

    KIND: ClassVar[str] = "volume_usage"

    at: str
    layers: int  # of the tree that was counted
    dead: int  # of them
    nodes: dict[str, NodeUsage]  # node (as text) → usage; what holds nothing is left out


class Placement(Record, frozen=True, kw_only=True):
    """Replicas of chunks ``[index*1024, …)`` of a volume: explicit, never re-hashed.

    ``id`` is ``<volume id>.<index, 6 digits>``.
    """

    KIND: ClassVar[str] = "placement"

    chunks: tuple[tuple[int, ...], ...]  # per chunk the chunk-server numbers


class PanguSettings(Record, frozen=True, kw_only=True):
    """What the operator set of the block store: one record, ``pangu``. What is not set is left to the programs."""

    KIND: ClassVar[str] = "pangu_settings"

    tunables: dict[str, int] = msgspec.field(default_factory=dict)
    balancing: bool = False  # replicas are being moved until the disks are evenly full


class PanguTerm(Record, frozen=True, kw_only=True):
    """Written to get a number that is higher than any before, and lower than that of any later leader."""

    KIND: ClassVar[str] = "pangu_term"

    leader: int
    number: int


class BootSet(Record, frozen=True, kw_only=True):
    """What the first disks made of a node read first, in the order of reading. ``id`` is ``<volume>.<node>``."""

    KIND: ClassVar[str] = "boot_set"

    ranges: tuple[tuple[int, int, int], ...]  # chunk, first block, blocks
    created: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One idempotent step of a job."""

    name: str
    done: bool = False
    since: str = ""  # when it was first found waiting; its time-out counts from here over restarts of the executor


class Job(Record, frozen=True, kw_only=True):
    """A durable record of an operation: what is to be done, how far it is, and how it ended."""

    KIND: ClassVar[str] = "job"

    action: str  # "create_instance", "delete_instance", "attach_disk" …
    account: str
    resource: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    state: Literal["queued", "running", "undoing", "done", "failed"] = "queued"
    attempts: int = 0
    error: str = ""
    request_id: str = ""
    created: str
    updated: str


class ClientToken(Record, frozen=True, kw_only=True):
    """Makes a create idempotent. ``id`` is ``<account>:<action>:<token>``; lives 24 h."""

    KIND: ClassVar[str] = "client_token"

    fingerprint: str  # SHA-256 of the other parameters
    response: dict[str, Any]
    created: str
