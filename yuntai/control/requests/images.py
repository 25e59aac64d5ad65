"""Requests on images. An image of a snapshot is that snapshot's node under another name: nothing is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import decide, matches, new_job, owned, paginate, transact
from yuntai.control.requests.disks import DEVICES, need_instance
from yuntai.control.requests.snapshot_groups import add_group, disks_of
from yuntai.control.requests.snapshots import need_snapshot
from yuntai.control.sources import readers_of_image
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Disk, Image, ImageDisk, Snapshot
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.lifecycle_storage import IMAGE, SNAPSHOT

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store


async def create_image(
    store: Store,
    caller: Caller,
    *,
    snapshot_id: str = "",
    instance_id: str = "",
    data_snapshots: tuple[str, ...] = (),
    name: str = "",
    description: str = "",
    os_name: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
    dry_run: bool = False,
) -> str:
    """CreateImage from a snapshot of a system disk, with data disks' if wanted, or from an instance with all its disks.

    Those of an instance are taken first, at one moment.
    """
    if bool(snapshot_id) == bool(instance_id):
        if snapshot_id:
            raise errors.invalid("InstanceId", instance_id, "give it or SnapshotId, not both")
        raise errors.missing("SnapshotId")
    validate.name("ImageName", name, code="InvalidImageName.Malformed")
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        await quotas.need(unit, caller.account, images=1)
        if name and any(i.account == caller.account and i.name == name for i in await unit.list(Image)):
            raise errors.invalid(
                "ImageName", name, "an image has that name; choose another", "InvalidImageName.Duplicated"
            )
        if snapshot_id:
            taken = [await _usable(unit, caller, snapshot_id)]
            taken += [await _usable_data(unit, caller, one) for one in data_snapshots]
        else:
            taken = await _snapshots_of(unit, caller, instance_id)
        snapshot = taken[0]
        origin = await _origin(unit, snapshot)
        image_id = new_id("m")
        image = Image(
            id=image_id,
            account=caller.account,
            name=name or image_id,
            description=description,
            os_name=os_name or (origin.os_name if origin else ""),
            os_type=origin.os_type if origin else "linux",
            architecture=origin.architecture if origin else "x86_64",
            volume=snapshot.volume,
            node=snapshot.node,
            size_gib=snapshot.size_gib,
            status="Available" if snapshot_id else "Creating",
            progress=100 if snapshot_id else 0,
            owner_alias="self",
            source_snapshot=snapshot.id,
            source_instance=instance_id,
            data_disks=tuple(
                ImageDisk(
                    snapshot=one.id,
                    volume=one.volume,
                    node=one.node,
                    size_gib=one.size_gib,
                    device=DEVICES[index],
                )
                for index, one in enumerate(taken[1:], 1)
            ),
            tags=checked,
            created=now_utc(),
        )
        unit.add(image)
        if not snapshot_id:
            unit.add(new_job(caller, "create_image", image.id, snapshots=[one.id for one in taken]))
        return image.id

    arguments = [snapshot_id, instance_id, data_snapshots, name, description, os_name, checked]
    return await transact(
        store, caller, body, str, action="CreateImage", token=client_token, arguments=arguments, dry_run=dry_run
    )


async def _usable(unit: Unit, caller: Caller, snapshot_id: str) -> Snapshot:
    snapshot = await need_snapshot(unit, caller, snapshot_id)
    decide(SNAPSHOT, snapshot.status, "use", snapshot.id)
    if snapshot.disk_kind != "system":
        raise ApiError(
            "InvalidSnapshotId.NotSystemDisk",
            f"The snapshot {snapshot.id} is of a data disk; an image is made of a system disk's.",
            errors.FORBIDDEN,
        )
    return snapshot


async def _usable_data(unit: Unit, caller: Caller, snapshot_id: str) -> Snapshot:
    snapshot = await need_snapshot(unit, caller, snapshot_id)
    decide(SNAPSHOT, snapshot.status, "use", snapshot.id)
    return snapshot


async def _snapshots_of(unit: Unit, caller: Caller, instance_id: str) -> list[Snapshot]:
    instance = await need_instance(unit, caller, instance_id)
    decide(INSTANCE, instance.status, "create_image", instance.id)
    disks = await disks_of(unit, instance_id)
    if not disks or disks[0].id != instance.system_disk:
        raise errors.not_found("system disk", instance.system_disk, "InvalidDiskId.NotFound")
    return await add_group(unit, caller, disks, description=f"for an image of {instance_id}")


async def _origin(unit: Unit, snapshot: Snapshot) -> Image | None:
    """Return the image that a snapshot's disk was made of, for its description."""
    disk = await unit.get(Disk, snapshot.disk)
    return await unit.get(Image, disk.source_image) if disk is not None and disk.source_image else None


async def need_image(unit: Unit, caller: Caller, image_id: str) -> Image:
    """Return an image that the caller may use, theirs or a public one, or the API's error."""
    if not image_id:
        raise errors.missing("ImageId")
    image = await unit.get(Image, image_id) if image_id.isprintable() else None
    if image is None or image.account not in ("", caller.account):
        raise errors.not_found("ImageId", image_id, "InvalidImageId.NotFound")
    return image


async def delete_image(store: Store, caller: Caller, image_id: str, *, dry_run: bool = False) -> None:
    """DeleteImage: refused while a disk still reads from it. Its snapshot stays."""

    async def body(unit: Unit) -> None:
        image = await need_image(unit, caller, image_id)
        if image.account != caller.account:
            raise ApiError(
                "Forbidden.RAM", f"The image {image_id} is public; only the operator deletes it.", errors.FORBIDDEN
            )
        move = decide(IMAGE, image.status, "delete", image.id)
        users = await readers_of_image(unit, image) if image.status == "Available" else []
        if users:
            raise errors.dependency(
                "ImageUsed",
                f"The image {image.id} is still read by {', '.join(users[:5])}, whose data is being copied; "
                "try again when that is done.",
                errors.FORBIDDEN,
            )
        unit.put(msgspec.structs.replace(image, status="Deleting"))
        unit.add(new_job(caller, move.wants, image.id, volume=image.volume))

    await transact(store, caller, body, type(None), dry_run=dry_run)


async def modify_image_attribute(
    store: Store, caller: Caller, image_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyImageAttribute."""
    validate.name("ImageName", name or "", code="InvalidImageName.Malformed")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        image = await owned(
            unit, Image, image_id, caller, field="ImageId", what="ImageId", code="InvalidImageId.NotFound"
        )
        decide(IMAGE, image.status, "modify", image.id)
        unit.put(
            msgspec.structs.replace(
                image,
                name=name or image.name,
                description=image.description if description is None else description,
            )
        )

    await transact(store, caller, body, type(None))


async def describe_images(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    name: str = "",
    status: str = "Available",
    owner_alias: str = "",
    snapshot_id: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[Image]:
    """DescribeImages: public ones and the caller's. ``status`` may name several, with commas between."""
    states = {part.strip() for part in status.split(",") if part.strip()}
    found = [
        image.value
        for image in await store.list(Image)
        if image.value.account in ("", caller.account)
        and matches(image.value, ids=ids, name=name, tags=tags)
        and (not states or image.value.status in states)
        and owner_alias in ("", image.value.owner_alias)
        and snapshot_id in ("", image.value.source_snapshot)
    ]
    return paginate(found, paging)


async def register_image(
    store: Store,
    caller: Caller,
    *,
    volume: str,
    node: int,
    name: str,
    size_gib: int,
    os_name: str = "",
    checksum: str = "",
) -> str:
    """Make a public image of a node whose bytes an operator has imported; the same volume gives the same image."""
    validate.name("ImageName", name, code="InvalidImageName.Malformed")

    async def body(unit: Unit) -> str:
        for image in await unit.list(Image):
            if image.volume == volume and image.account == "":
                return image.id
        image_id = new_id("m")
        unit.add(
            Image(
                id=image_id,
                name=name or image_id,
                os_name=os_name,
                volume=volume,
                node=node,
                size_gib=size_gib,
                status="Available",
                progress=100,
                checksum=checksum,
                created=now_utc(),
            )
        )
        return image_id

    return await transact(store, caller, body, str)
