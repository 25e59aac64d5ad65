"""Where an instance may be, changed through the new SDK."""

from __future__ import annotations

from typing import Any

import alibabacloud_ecs20140526.models as e

from tests.functional.sdk.base import Base


class DeployLife(Base):
    """The part of the life that takes an instance out of its deployment set and back."""

    def change_deployment(self) -> None:
        """Do it while the instance is stopped; with wrong values it is refused."""
        one, chosen = self.made["instance"], self.made["set"]
        self._deploy(remove_from_deployment_set=True)
        assert not self.instance(one).deployment_set_id
        self._deploy(deployment_set_id=chosen, deployment_set_group_no=2)
        shown = self.instance(one)
        assert (shown.deployment_set_id, shown.deployment_set_group_no) == (chosen, 2)
        # Nothing to change is nothing to do, however it was to be done.
        self._deploy(deployment_set_id=chosen, deployment_set_group_no=2, migration_type="live")
        for code, wrong in (
            ("InvalidParameter", {"migration_type": "slow"}),
            ("InvalidDeploymentSetId.NotFound", {"deployment_set_id": "ds-none"}),
            ("MissingParameter", {}),
        ):
            assert self._refusal(**wrong).startswith(code)

    def _refusal(self, **what: Any) -> str:
        try:
            self._deploy(**what)
        except Exception as error:  # noqa: BLE001 — the SDKs' errors have no common class
            return str(getattr(error, "code", error))
        return "it was taken"

    def _deploy(self, **what: Any) -> None:
        request = e.ModifyInstanceDeploymentRequest(region_id=self.region, instance_id=self.made["instance"], **what)
        assert self.sdk.ecs.modify_instance_deployment(request).body.request_id
