"""The operator's way to a new public image: bytes written into a volume, then frozen and named."""

from __future__ import annotations

from typing import Any

from yuntai.api.registry import YUNTAI, Call, action
from yuntai.control import errors
from yuntai.control.requests import images
from yuntai.model.compute import Image


@action(YUNTAI, "RegisterImage", "VolumeId! ImageName! SizeGib!:i OsName Checksum", "ImageId", operator=True)
async def register_image(call: Call) -> dict[str, Any]:
    """Freeze a volume as it is now and make a public image of it."""
    volume_id = call.text("VolumeId")
    node = await call.context.volumes.snapshot(volume_id, f"image-{volume_id}")
    await call.context.volumes.keep(volume_id, 0)
    image_id = await images.register_image(
        call.context.writes,
        call.caller,
        volume=volume_id,
        node=node,
        name=call.text("ImageName"),
        size_gib=call.args["SizeGib"],
        os_name=call.text("OsName"),
        checksum=call.text("Checksum"),
    )
    return {"ImageId": image_id}


async def _image(call: Call) -> Image:
    found = await call.context.reads.get(Image, call.text("ImageId"))
    if found is None:
        raise errors.not_found("image", call.text("ImageId"), "InvalidImageId.NotFound")
    return found.value


@action(YUNTAI, "OpenImage", "ImageId! HostId!", "Export Socket Uri", operator=True)
async def open_image(call: Call) -> dict[str, Any]:
    """Serve an image's bytes, read-only, on a host: for an export."""
    image = await _image(call)
    opened = await call.context.volumes.attach(image.volume, call.text("HostId"), read_only=True, node=image.node)
    return {"Export": image.volume, "Socket": opened.socket, "Uri": opened.uri}


@action(YUNTAI, "CloseImage", "ImageId! HostId!", operator=True)
async def close_image(call: Call) -> dict[str, Any]:
    """Stop what OpenImage began."""
    image = await _image(call)
    await call.context.volumes.detach(image.volume, call.text("HostId"))
    return {}
