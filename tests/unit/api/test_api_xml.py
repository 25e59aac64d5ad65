"""Every answer says the same in XML as in JSON."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.api import raw_http
from tests.unit.api.fake_cloud import FakeCloud
from yuntai.api import catalogue
from yuntai.api.params import Param


def needs(params: tuple[Param, ...]) -> list[str]:
    return [param.name for param in params if param.needed]


READS = sorted(
    (version, name)
    for version, table in catalogue.load().items()
    for name, action in table.items()
    if not action.writes and not needs(action.params.members)
)


def tree(value: Any, name: str) -> ElementTree.Element:
    """Return what XML should look like, by a second way than the product's."""
    element = ElementTree.Element(name)
    if isinstance(value, dict):
        for key, child in value.items():
            for one in child if isinstance(child, list) else [child]:
                element.append(tree(one, key))
    else:
        element.text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return element


def shown(element: ElementTree.Element) -> list[tuple[str, str]]:
    return [(one.tag, one.text or "") for one in element.iter() if one.tag != "RequestId"]


@pytest.fixture(scope="module")
def filled(cloud: FakeCloud) -> FakeCloud:
    made = raw_http.rpc(
        cloud.target,
        "RunInstances",
        ImageId="m-debian13",
        InstanceType="ecs.yt1.nano",
        Description="<&> 中",
        **{"Tag.1.Key": "a&b", "Tag.1.Value": "<c>", "DataDisk.1.Size": "1"},
    )
    assert made.status == 200, made.body
    return cloud


@pytest.mark.parametrize(("version", "name"), READS)
def test_xml_says_what_json_says(filled: FakeCloud, version: str, name: str) -> None:
    as_json = raw_http.rpc(filled.target, name, version=version)
    as_xml = raw_http.rpc(filled.target, name, version=version, Format="XML")
    assert (as_json.status, as_xml.status) == (200, 200)
    assert as_xml.xml.tag == f"{name}Response"
    assert shown(as_xml.xml) == shown(tree(as_json.json, f"{name}Response"))
