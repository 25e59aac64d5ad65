"""Placement through the new SDK: deployment sets and dedicated hosts."""

from __future__ import annotations

from typing import Any

import alibabacloud_ecs20140526.models as e

from tests.functional.sdk.base import Base


class PlaceLife(Base):
    """The part of the life that is about where instances are."""

    def make_set(self) -> None:
        """Make a deployment set that the instance comes into."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        request = e.CreateDeploymentSetRequest(
            region_id=region,
            deployment_set_name=self.name,
            strategy="AvailabilityGroup",
            group_count=2,
            client_token=f"{self.name}-set",
        )
        made["set"] = ecs.create_deployment_set(request).body.deployment_set_id
        assert ecs.create_deployment_set(request).body.deployment_set_id == made["set"]
        ecs.modify_deployment_set_attribute(
            e.ModifyDeploymentSetAttributeRequest(
                region_id=region, deployment_set_id=made["set"], description="groups that are apart"
            )
        )
        shown = self._set()
        assert (shown.strategy, shown.group_count, shown.instance_amount) == ("AvailabilityGroup", 2, 0)
        assert shown.deployment_set_description == "groups that are apart"

    def check_set(self) -> None:
        """See the instance in its set, which is kept as long as it is there."""
        one = self.made["instance"]
        shown = self.instance(one)
        assert (shown.deployment_set_id, shown.deployment_set_group_no) == (self.made["set"], 2)
        assert self._set().instance_ids.instance_id == [one]
        assert not self._tried(self._delete_set), "a set that has an instance was deleted"

    def drop_set(self) -> None:
        """Delete the set, which nothing is in any more."""
        if "set" in self.made:
            self._until_done("the set to be free", lambda: self._tried(self._delete_set))

    def use_dedicated_hosts(self) -> None:
        """Ask for a whole machine and give it back; an account that may have none is refused."""
        ecs, region = self.sdk.ecs, self.region
        request = e.AllocateDedicatedHostsRequest(
            region_id=region, dedicated_host_type="ddh.yt1", quantity=1, dedicated_host_name=self.name
        )
        try:
            one = ecs.allocate_dedicated_hosts(request).body.dedicated_host_id_sets.dedicated_host_id[0]
        except Exception as error:
            if getattr(error, "code", "") == "QuotaExceed.DedicatedHost":
                return
            raise
        listing = e.DescribeDedicatedHostsRequest(region_id=region, dedicated_host_ids=f'["{one}"]')
        shown = ecs.describe_dedicated_hosts(listing).body.dedicated_hosts.dedicated_host
        assert [(row.dedicated_host_id, row.dedicated_host_name) for row in shown] == [(one, self.name)]
        try:  # only one whose machine has failed has another looked for
            ecs.redeploy_dedicated_host(e.RedeployDedicatedHostRequest(region_id=region, dedicated_host_id=one))
        except Exception as error:
            if getattr(error, "code", "") != "IncorrectDedicatedHostStatus":
                raise
        ecs.release_dedicated_host(e.ReleaseDedicatedHostRequest(region_id=region, dedicated_host_id=one))
        assert not ecs.describe_dedicated_hosts(listing).body.dedicated_hosts.dedicated_host

    def _delete_set(self) -> Any:
        return self.sdk.ecs.delete_deployment_set(
            e.DeleteDeploymentSetRequest(region_id=self.region, deployment_set_id=self.made["set"])
        )

    def _set(self) -> Any:
        request = e.DescribeDeploymentSetsRequest(region_id=self.region, deployment_set_ids=f'["{self.made["set"]}"]')
        return self.sdk.ecs.describe_deployment_sets(request).body.deployment_sets.deployment_set[0]
