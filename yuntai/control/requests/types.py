"""The arguments and results of requests, shared by the API front and the functions beside this module."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import msgspec

from yuntai.model.compute import (
    AutoSnapshotPolicy,
    Disk,
    Image,
    Instance,
    ObservedInstance,
    Snapshot,
    SnapshotGroup,
)
from yuntai.model.network import Port

T = TypeVar("T")


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, where, and in which request (the id goes onto the job and its log lines)."""

    account: str
    region: str = "cn-local"
    zone: str = "cn-local-a"
    request_id: str = ""


class Paging(msgspec.Struct, frozen=True, kw_only=True):
    """Both ways to page. ``next_token`` or ``max_results`` given = by token, else by ``page_number``."""

    page_number: int = 1
    page_size: int = 10
    next_token: str = ""
    max_results: int | None = None


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of ``total`` records; ``next_token`` is "" on the last page."""

    items: tuple[T, ...]
    total: int
    page_number: int
    page_size: int
    next_token: str = ""


class GroupDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A group with its snapshots."""

    group: SnapshotGroup
    snapshots: tuple[Snapshot, ...]


class PolicyDetail(msgspec.Struct, frozen=True, kw_only=True):
    """An automatic snapshot policy with the disks that it is applied to."""

    policy: AutoSnapshotPolicy
    disks: tuple[str, ...]


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one snapshot of a group that is to be deleted; ``code`` "" = it goes."""

    snapshot: str
    code: str = ""
    message: str = ""


class DiskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """``SystemDisk.*`` or one ``DataDisk.N.*``; ``size_gib`` None = as its source (or 20)."""

    size_gib: int | None = None
    category: str = ""
    snapshot_id: str = ""
    delete_with_instance: bool = True
    name: str = ""
    description: str = ""


class RunInstances(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of RunInstances and CreateInstance. ``min_amount`` 0 = all or none."""

    image_id: str = ""
    instance_type: str = ""
    vswitch_id: str = ""  # "" = the default vSwitch of the zone, made on first need
    security_group_ids: tuple[str, ...] = ()  # () = the default group of the VPC
    name: str = ""
    hostname: str = ""
    description: str = ""
    unique_suffix: bool = False  # several instances: append 001, 002 …
    user_data: str = ""  # base64
    key_pair_name: str = ""
    password: str = ""
    system_disk: DiskSpec = DiskSpec()
    data_disks: tuple[DiskSpec, ...] = ()
    tags: dict[str, str] = {}
    private_ip: str = ""
    zone_id: str = ""
    deletion_protection: bool = False
    restart_policy: Literal["always", "never"] = "always"
    deployment_set_id: str = ""
    deployment_set_group: int | None = None
    dedicated_host_id: str = ""
    amount: int = 1
    min_amount: int = 0
    client_token: str = ""
    dry_run: bool = False


class InstanceResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one instance of a plural request. ``code`` is "200", or the error's code."""

    instance_id: str
    previous_status: str
    current_status: str
    code: str = "200"
    message: str = "success"
    http_status: int = 200


class InstanceDetail(msgspec.Struct, frozen=True, kw_only=True):
    """An instance with what its description shows beside the record."""

    instance: Instance
    port: Port | None
    more_ports: tuple[Port, ...] = ()
    image: Image | None
    observed: ObservedInstance | None


class InstanceFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Every field that is given must match. ``name`` may hold ``*``. A tag's value None = any value."""

    ids: tuple[str, ...] = ()
    name: str = ""
    status: str = ""
    vpc_id: str = ""
    vswitch_id: str = ""
    zone_id: str = ""
    image_id: str = ""
    instance_type: str = ""
    security_group_id: str = ""
    key_pair_name: str = ""
    private_ips: tuple[str, ...] = ()
    tags: dict[str, str | None] = {}


class InstanceChange(msgspec.Struct, frozen=True, kw_only=True):
    """ModifyInstanceAttribute: None = leave as it is."""

    name: str | None = None
    description: str | None = None
    hostname: str | None = None
    user_data: str | None = None
    password: str | None = None
    deletion_protection: bool | None = None
    security_group_ids: tuple[str, ...] | None = None


class DiskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """As :class:`InstanceFilter`. ``status`` "All" = any; ``kind`` is system, data, or "" for any."""

    ids: tuple[str, ...] = ()
    name: str = ""
    status: str = ""
    kind: str = ""
    category: str = ""
    instance_id: str = ""
    snapshot_id: str = ""
    zone_id: str = ""
    tags: dict[str, str | None] = {}


class DiskDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A disk with how much of it still comes from its source: ``hydrated_percent`` is 100 when nothing does."""

    disk: Disk
    hydrated_percent: int


class RuleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One rule to add or to take away (flat parameters, or one ``Permissions.N``). The peer is a CIDR or a group."""

    protocol: str = ""
    port_range: str = ""
    cidr: str = ""
    group: str = ""
    policy: str = ""  # "" = accept
    priority: str = ""  # "" = 1
    description: str = ""


class CreatedVpc(msgspec.Struct, frozen=True, kw_only=True):
    """The ids that CreateVpc answers."""

    vpc_id: str
    router_id: str
    route_table_id: str


class CreatedKeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A new key pair. ``private_key`` (PEM) is in this answer and nowhere else; "" for an imported one."""

    id: str
    name: str
    fingerprint: str
    private_key: str = ""


class TagResource(msgspec.Struct, frozen=True, kw_only=True):
    """One tag on one resource, as ListTagResources shows it."""

    resource_id: str
    resource_type: str
    key: str
    value: str


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a quota is used."""

    name: str
    used: int
    limit: int
