"""The ``create`` figure: from RunInstances to Running, and on to the guest's first packet, on a running cloud.

The first packet is the guest's answer to a ping from the vSwitch's own namespace on the host, sent every 20 ms. What
of it is the cloud's and what the guest's own boot shows in the two columns.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from typing import TYPE_CHECKING, Any

from bench.cloud import Cloud
from bench.measure import CannotMeasure, Figure, Foreign, Options
from yuntai.network import names

if TYPE_CHECKING:
    from bench.client import Client

NAME = "create"
TYPE = "ecs.yt1.nano"
POLL_S = 0.02
LIMIT_S = 180
_REPLY = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from", re.MULTILINE)


async def run(options: Options) -> Figure:
    """Take the figure."""
    cloud = Cloud.find(options.home)
    client = cloud.client()
    figure = Figure(
        NAME,
        f"one instance {TYPE} of the smallest image after the other, seconds",
        ("run", "RunInstances answered", "Running", "first packet", "Running to packet", "deleted", "others' cores"),
    )
    try:
        image = await _smallest_image(client)
        figure.notes.append(f"image {image['ImageId']} ({image['ImageName']})")
        for number in range(1, options.repeat + 1):
            figure.rows.append((number, *await _one(cloud, client, str(image["ImageId"]))))
    finally:
        await client.close()
    columns = list(zip(*figure.rows, strict=True))[1:]
    figure.rows.append(("median", *(statistics.median(column) for column in columns)))
    return figure


async def _one(cloud: Cloud, client: Client, image_id: str) -> tuple[float, ...]:
    foreign = Foreign()
    began_s, began_unix_s = time.monotonic(), time.time()
    answer = await client.call(
        "RunInstances", RegionId=cloud.spec.cluster.region, ImageId=image_id, InstanceType=TYPE, Amount=1,
        InstanceName="bench-create",
    )  # fmt: skip
    answered_s = time.monotonic() - began_s
    (instance_id,) = answer["InstanceIdSets"]["InstanceIdSet"]
    packet: asyncio.Task[float] | None = None
    try:
        while True:
            instance = await _describe(client, instance_id)
            if packet is None and instance and (ips := instance["VpcAttributes"]["PrivateIpAddress"]["IpAddress"]):
                packet = asyncio.create_task(_first_packet(cloud, instance["VpcAttributes"]["VSwitchId"], ips[0]))
            if instance and instance["Status"] == "Running":
                running_s = time.monotonic() - began_s
                break
            if time.monotonic() - began_s > LIMIT_S:
                raise CannotMeasure(f"instance {instance_id} is not Running after {LIMIT_S} s: {instance}")
            await asyncio.sleep(POLL_S)
        if packet is None:
            raise CannotMeasure(f"instance {instance_id} has no private address")
        packet_s = await packet - began_unix_s
    finally:
        if packet is not None:
            packet.cancel()
        deleted_s = await _delete(client, instance_id)
    return answered_s, running_s, packet_s, packet_s - running_s, deleted_s, foreign.cores()


async def _first_packet(cloud: Cloud, vswitch: str, address: str) -> float:
    """Return when the guest first answered, as Unix time."""
    netns = names.netns(vswitch)
    # -c 1 with a deadline: go on until one probe is answered; ping(8).
    script = (
        f"for i in $(seq 3000); do ip -n {netns} route get {address} >/dev/null 2>&1 && break; sleep 0.02; done; "
        f"exec ip netns exec {netns} ping -n -D -i 0.02 -W 1 -c 1 -w {LIMIT_S} {address}"
    )
    process = await asyncio.create_subprocess_exec(
        *cloud.inside("sh", "-c", script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 2 * LIMIT_S)
    found = _REPLY.search(out.decode())
    if found is None:
        raise CannotMeasure(f"the guest {address} answered no ping in {LIMIT_S} s: {out.decode()[-300:]}")
    return float(found.group(1))


async def _describe(client: Client, instance_id: str) -> dict[str, Any] | None:
    answer = await client.call("DescribeInstances", InstanceIds=f'["{instance_id}"]')
    found = answer["Instances"]["Instance"]
    return found[0] if found else None


async def _delete(client: Client, instance_id: str) -> float:
    began_s = time.monotonic()
    await client.call("DeleteInstance", InstanceId=instance_id, Force="true")
    while await _describe(client, instance_id) is not None:
        if time.monotonic() - began_s > LIMIT_S:
            raise CannotMeasure(f"instance {instance_id} is still there {LIMIT_S} s after DeleteInstance")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s


async def _smallest_image(client: Client) -> dict[str, Any]:
    answer = await client.call("DescribeImages", PageSize=100)
    images = [image for image in answer["Images"]["Image"] if image["Status"] == "Available"]
    if not images:
        raise CannotMeasure("the cloud has no image that is Available; `make up` imports one")
    # Both images may have the same size on paper; the tiny one says so in its name.
    return min(images, key=lambda image: ("tiny" not in image["ImageName"].lower(), image["Size"]))
