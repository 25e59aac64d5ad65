"""The official clients, pointed at a cloud of ours; those of the new SDK keep every raw answer for the strict check."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import alibabacloud_ecs20140526.models as ecs_models
import alibabacloud_sts20150401.models as sts_models
import alibabacloud_vpc20160428.models as vpc_models
from alibabacloud_ecs20140526.client import Client as EcsClient
from alibabacloud_sts20150401.client import Client as StsClient
from alibabacloud_tea_openapi.models import Config
from alibabacloud_vpc20160428.client import Client as VpcClient
from aliyunsdkcore.client import AcsClient
from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider

from tests.functional.sdk import schema


@dataclass(frozen=True)
class Target:
    """Where a cloud is and who asks."""

    endpoint: str  # "http://127.0.0.1:8080"
    access_key_id: str
    access_key_secret: str
    region: str

    @property
    def host(self) -> str:
        """The endpoint without its scheme, as the SDKs want it."""
        return urlsplit(self.endpoint).netloc


def target_from_environment() -> Target | None:
    """Return the cloud that the environment names, or the one in ``$YUNTAI_HOME``; None where there is none."""
    names = ("YUNTAI_ENDPOINT", "YUNTAI_ACCESS_KEY_ID", "YUNTAI_ACCESS_KEY_SECRET", "YUNTAI_REGION")
    given = [os.environ.get(name, "") for name in names]
    if all(given):
        return Target(*given)
    home = os.environ.get("YUNTAI_HOME")
    path = Path(home) / "credentials.json" if home else None
    if path is None or not path.is_file():
        return None
    raw = json.loads(path.read_text())
    return Target(raw["endpoint"], raw["access_key_id"], raw["access_key_secret"], raw["region"])


@dataclass
class Recorder:
    """Raw answers of the new SDK's clients, by action."""

    bodies: dict[str, list[tuple[ModuleType, dict[str, Any]]]] = field(default_factory=dict)

    def note(self, models: ModuleType, action: str, body: dict[str, Any]) -> None:
        """Keep one answer."""
        self.bodies.setdefault(action, []).append((models, body))

    def problems(self) -> list[str]:
        """Return everything that the strict check says of all answers, each once."""
        found: dict[str, None] = {}
        for action, bodies in self.bodies.items():
            for models, body in bodies:
                found |= dict.fromkeys(schema.problems(models, action, body))
        return list(found)


def _recording(base: type, models: ModuleType, recorder: Recorder) -> type:
    class Recording(base):  # type: ignore[misc,valid-type]
        def call_api(self, params: Any, request: Any, runtime: Any) -> Any:
            answer = super().call_api(params, request, runtime)
            recorder.note(models, params.action, answer["body"])
            return answer

    return Recording


@dataclass
class NewSdk:
    """Clients of the new Python SDK. ``algorithm`` "" is ACS3, "v2" the RPC signature."""

    target: Target
    algorithm: str = ""
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        def config() -> Config:
            made = Config(
                access_key_id=self.target.access_key_id,
                access_key_secret=self.target.access_key_secret,
                endpoint=self.target.host,
                protocol="HTTP",
                region_id=self.target.region,
            )
            if self.algorithm:
                made.signature_algorithm = self.algorithm
            return made

        self.ecs: EcsClient = _recording(EcsClient, ecs_models, self.recorder)(config())
        self.vpc: VpcClient = _recording(VpcClient, vpc_models, self.recorder)(config())
        self.sts: StsClient = _recording(StsClient, sts_models, self.recorder)(config())


def old_sdk(target: Target) -> AcsClient:
    """Return a client of the old Python SDK; each request needs ``set_endpoint`` besides."""
    port = urlsplit(target.endpoint).port or 80
    return AcsClient(target.access_key_id, target.access_key_secret, target.region, port=port, auto_retry=False)


def libcloud_driver(target: Target) -> Any:
    """Return libcloud's driver for ECS, which speaks XML."""
    parts = urlsplit(target.endpoint)
    return get_driver(Provider.ALIYUN_ECS)(
        target.access_key_id,
        target.access_key_secret,
        region=target.region,
        secure=False,
        host=parts.hostname,
        port=parts.port or 80,
    )
