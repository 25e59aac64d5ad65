"""What a tenant or the operator says of where instances are to be: deployment sets, dedicated hosts, settings."""

from __future__ import annotations

from typing import ClassVar, Literal

from yuntai.model.base import Record

Strategy = Literal["Availability", "AvailabilityGroup", "LowLatency"]


class DeploymentSet(Record, frozen=True, kw_only=True):
    """Instances that are to be apart, or close together.

    ``Availability``: no two of them on one host. ``AvailabilityGroup``: no two of different groups on one host.
    ``LowLatency``: on as few hosts and racks as possible; a wish, no condition. The first two are spread over racks.
    """

    KIND: ClassVar[str] = "deployment_set"

    account: str
    name: str = ""
    description: str = ""
    strategy: Strategy = "Availability"
    group_count: int = 3  # of AvailabilityGroup: its groups are 1 to this
    on_failure: Literal["CancelMembershipAndStart", "KeepStopped"] = "CancelMembershipAndStart"
    created: str


class DedicatedHost(Record, frozen=True, kw_only=True):
    """A host that one account has for itself. That host's own record names it in ``dedicated``."""

    KIND: ClassVar[str] = "dedicated_host"

    account: str
    name: str = ""
    description: str = ""
    host: str = ""  # "" = it is being looked for
    auto_placement: bool = True  # as it was asked for; an instance names its dedicated host anyway
    action_on_maintenance: Literal["Migrate", "Stop"] = "Migrate"  # when its host fails: another one, or wait for it
    redeploy: bool = False  # its host has failed, and its owner does not want to wait
    reason: str = ""  # why there is no host for it
    created: str


class SchedulerSettings(Record, frozen=True, kw_only=True):
    """What the operator set of the scheduler: one record, ``scheduler``."""

    KIND: ClassVar[str] = "scheduler_settings"

    reserve_for_one_host: bool = False  # new instances leave room for what runs on any one host
    own_types: bool = False  # the table of instance types is the records; before, it is what the product brings
    await_hosts_s: int = 300  # after all were off: so long a host that is not back yet is not called failed


SETTINGS_ID = "scheduler"
