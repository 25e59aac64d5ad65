"""A life cycle through the old Python SDK: RPC signature, everything in the query, JSON."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlsplit

from aliyunsdkcore.request import CommonRequest, RpcRequest
from aliyunsdkecs.request.v20140526 import (
    DeleteInstanceRequest,
    DescribeImagesRequest,
    DescribeInstancesRequest,
    DescribeRegionsRequest,
    DescribeZonesRequest,
    RunInstancesRequest,
    StopInstanceRequest,
)

from tests.functional.sdk.clients import Target, old_sdk


class OldLife:
    """Run, look, stop and delete an instance in the default network."""

    def __init__(self, target: Target, patience_s: float = 20.0, poll_s: float = 0.02) -> None:
        self.target = target
        self.patience_s = patience_s
        self.poll_s = poll_s
        self.client = old_sdk(target)

    def ask(self, request: RpcRequest, **parameters: Any) -> dict[str, Any]:
        """Send a request of the SDK and return what it parsed."""
        request.set_endpoint(urlsplit(self.target.endpoint).hostname)
        request.set_protocol_type("http")
        for name, value in parameters.items():
            getattr(request, f"set_{name}")(value)
        answer: dict[str, Any] = json.loads(self.client.do_action_with_exception(request))
        return answer

    def common(self, version: str, action: str, **parameters: str) -> dict[str, Any]:
        """Send a request that the SDK has no class for."""
        request = CommonRequest(domain=urlsplit(self.target.endpoint).hostname, version=version, action_name=action)
        request.set_protocol_type("http")
        for name, value in parameters.items():
            request.add_query_param(name, value)
        answer: dict[str, Any] = json.loads(self.client.do_action_with_exception(request))
        return answer

    def wait(self, instance_id: str, status: str | None) -> None:
        """Wait for a status, or until the instance is gone."""
        deadline = time.monotonic() + self.patience_s
        while True:
            found = self.ask(DescribeInstancesRequest.DescribeInstancesRequest(), InstanceIds=f'["{instance_id}"]')
            rows = found["Instances"]["Instance"]
            seen = rows[0]["Status"] if rows else None
            if seen == status:
                return
            assert time.monotonic() < deadline, f"{instance_id} is {seen} and not {status}"
            time.sleep(self.poll_s)

    def run(self) -> None:
        """Live the life."""
        regions = self.ask(DescribeRegionsRequest.DescribeRegionsRequest())["Regions"]["Region"]
        assert [region["RegionId"] for region in regions] == [self.target.region]
        assert self.ask(DescribeZonesRequest.DescribeZonesRequest())["Zones"]["Zone"]
        endpoints = self.common("2015-06-12", "DescribeEndpoints", Id=self.target.region, ServiceCode="ecs")
        assert endpoints["Endpoints"]["Endpoint"][0]["Endpoint"] == self.target.host
        images = self.ask(DescribeImagesRequest.DescribeImagesRequest(), PageSize=50)["Images"]["Image"]
        image = min(images, key=lambda one: int(one["Size"]))["ImageId"]
        made = self.ask(
            RunInstancesRequest.RunInstancesRequest(),
            ImageId=image,
            InstanceType="ecs.yt1.nano",
            InstanceName="old-sdk",
            DataDisks=[{"Size": 1, "DiskName": "old"}],
            Tags=[{"Key": "owner", "Value": "old-sdk"}],
        )
        instance_id = made["InstanceIdSets"]["InstanceIdSet"][0]
        try:
            self.wait(instance_id, "Running")
            self.ask(StopInstanceRequest.StopInstanceRequest(), InstanceId=instance_id, ForceStop=True)
            self.wait(instance_id, "Stopped")
        finally:
            self.ask(DeleteInstanceRequest.DeleteInstanceRequest(), InstanceId=instance_id, Force=True)
        self.wait(instance_id, None)
