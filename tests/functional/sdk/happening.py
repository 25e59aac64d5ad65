"""What happens to an instance, through the new SDK: its history of events, rehearsals, what is wished then."""

from __future__ import annotations

import datetime as dt

import alibabacloud_ecs20140526.models as e
from Tea.exceptions import TeaException

from tests.functional.sdk.base import Base


class HappenLife(Base):
    """The part of the life that its owner did not ask for."""

    def rehearse_events(self) -> None:
        """Rehearse a maintenance and a failure, look at both, cancel them; choose what a failure is to do."""
        ecs, region, one = self.sdk.ecs, self.region, self.made["instance"]
        later = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
        events = {}
        for kind, state in (("SystemMaintenance.Reboot", "Scheduled"), ("SystemFailure.Reboot", "Executing")):
            made = ecs.create_simulated_system_events(
                e.CreateSimulatedSystemEventsRequest(
                    region_id=region, instance_id=[one], event_type=kind, not_before=later
                )
            ).body.event_id_set.event_id
            assert len(made) == 1
            events[made[0]] = (kind, state)
        shown = self._events(instance_event_cycle_status=["Scheduled", "Executing"])
        assert {row.event_id: (row.event_type.name, row.event_cycle_status.name) for row in shown} == events
        assert {(row.instance_id, row.not_before) for row in shown} == {(one, later)}
        assert self._events() == [], "only what is over is shown unless other states are asked for"
        ecs.cancel_simulated_system_events(
            e.CancelSimulatedSystemEventsRequest(region_id=region, event_id=list(events))
        )
        assert {row.event_cycle_status.name for row in self._events()} == {"Canceled"}
        assert not self._cancelled(next(iter(events))), "an event was canceled twice"
        self._wish()

    def _cancelled(self, event: str) -> bool:
        try:
            self.sdk.ecs.cancel_simulated_system_events(
                e.CancelSimulatedSystemEventsRequest(region_id=self.region, event_id=[event])
            )
        except TeaException:
            return False
        return True

    def _events(
        self, instance_event_cycle_status: list[str] | None = None
    ) -> list[e.DescribeInstanceHistoryEventsResponseBodyInstanceSystemEventSetInstanceSystemEventType]:
        request = e.DescribeInstanceHistoryEventsRequest(
            region_id=self.region,
            instance_id=self.made["instance"],
            instance_event_cycle_status=instance_event_cycle_status,
        )
        return list(
            self.sdk.ecs.describe_instance_history_events(request).body.instance_system_event_set
            .instance_system_event_type
        )  # fmt: skip

    def _wish(self) -> None:
        ecs, region, one = self.sdk.ecs, self.region, self.made["instance"]
        window = e.ModifyInstanceMaintenanceAttributesRequestMaintenanceWindow(
            start_time="02:00:00", end_time="04:00:00"
        )
        for wanted in ("Stop", "AutoRecover"):
            ecs.modify_instance_maintenance_attributes(
                e.ModifyInstanceMaintenanceAttributesRequest(
                    region_id=region,
                    instance_id=[one],
                    action_on_maintenance=wanted,
                    maintenance_window=[window],
                    notify_on_maintenance=True,
                )
            )
            row = ecs.describe_instance_maintenance_attributes(
                e.DescribeInstanceMaintenanceAttributesRequest(region_id=region, instance_id=[one])
            ).body.maintenance_attributes.maintenance_attribute[0]
            assert (row.action_on_maintenance.value, row.notify_on_maintenance) == (wanted, True)
            assert [(w.start_time, w.end_time) for w in row.maintenance_windows.maintenance_window] == [
                ("02:00:00", "04:00:00")
            ]
