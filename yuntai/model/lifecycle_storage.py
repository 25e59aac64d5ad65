"""The life cycles of disk, snapshot and image."""

from __future__ import annotations

from yuntai.model.lifecycle import GONE, Allow, build

_DISK = "IncorrectDiskStatus"

DISK = build(
    "disk",
    states=("Creating", "Available", "Attaching", "In_use", "Detaching", "ReIniting", "Deleting"),
    initial=("Creating",),
    requests={
        "attach": (_DISK, "only an Available disk can be attached; detach it first"),
        "detach": (_DISK, "only a disk that is In_use can be detached"),
        "delete": (_DISK, "only an Available disk can be deleted; detach it first"),
        "resize": (_DISK, "only a disk that is Available or In_use can be resized"),
        "snapshot": (_DISK, "only a disk that is Available or In_use can be snapshotted"),
        "reset": (_DISK, "only a disk that is Available or In_use can be rolled back"),
        "reinit": (_DISK, "only a disk that is Available or In_use can be initialized again"),
        "modify": (_DISK, "it is being deleted"),
    },
    facts=(
        "created",  # its volume is there
        "created_attached",  # its volume is there and its instance too
        "create_failed",
        "attached",
        "attach_failed",
        "detached",
        "detach_failed",
        "restored",  # it has its new contents, or was left with the old ones
        "restored_attached",  # the same of a disk that an instance has
        "instance_deleted",  # and the disk goes with it
        "instance_released",  # the instance goes, the disk stays
        "deleted",
    ),
    moves={
        "attach": {"Available": Allow("Attaching", "attach_disk")},
        "detach": {"In_use": Allow("Detaching", "detach_disk")},
        "delete": {"Available": Allow("Deleting", "delete_disk")},
        "resize": {state: Allow(state, "resize_disk") for state in ("Available", "In_use")},
        "snapshot": {state: Allow(state, "create_snapshot") for state in ("Available", "In_use")},
        "reset": {state: Allow("ReIniting", "reset_disk") for state in ("Available", "In_use")},
        "reinit": {state: Allow("ReIniting", "reinit_disk") for state in ("Available", "In_use")},
        "modify": {s: Allow(s) for s in ("Creating", "Available", "Attaching", "In_use", "Detaching", "ReIniting")},
        "created": {"Creating": Allow("Available")},
        "created_attached": {"Creating": Allow("In_use")},
        "create_failed": {"Creating": Allow(GONE)},
        "attached": {"Attaching": Allow("In_use")},
        "attach_failed": {"Attaching": Allow("Available")},
        "detached": {"Detaching": Allow("Available")},
        "detach_failed": {"Detaching": Allow("In_use")},
        "restored": {"ReIniting": Allow("Available")},
        "restored_attached": {"ReIniting": Allow("In_use")},
        "instance_deleted": {s: Allow("Deleting") for s in ("Creating", "In_use")},
        "instance_released": {s: Allow("Available") for s in ("In_use", "Attaching", "Detaching")},
        "deleted": {"Deleting": Allow(GONE)},
    },
)

_SNAPSHOT = "IncorrectSnapshotStatus"

SNAPSHOT = build(
    "snapshot",
    states=("progressing", "accomplished", "failed", "deleting"),
    initial=("progressing",),
    requests={
        "use": (_SNAPSHOT, "wait until it is accomplished"),
        "delete": (_SNAPSHOT, "wait until it is accomplished or failed"),
        "modify": (_SNAPSHOT, "it is being deleted"),
    },
    facts=("taken", "take_failed", "deleted"),
    moves={
        "use": {"accomplished": Allow("accomplished")},
        "delete": {s: Allow("deleting", "delete_snapshot") for s in ("accomplished", "failed")},
        "modify": {s: Allow(s) for s in ("progressing", "accomplished", "failed")},
        "taken": {"progressing": Allow("accomplished")},
        "take_failed": {"progressing": Allow("failed")},
        "deleted": {"deleting": Allow(GONE)},
    },
)

_IMAGE = "IncorrectImageStatus"

IMAGE = build(
    "image",
    states=("Creating", "Available", "CreateFailed", "Deleting"),
    initial=("Creating",),
    requests={
        "use": (_IMAGE, "wait until it is Available"),
        "delete": (_IMAGE, "wait until it is Available or CreateFailed"),
        "modify": (_IMAGE, "it is being deleted"),
    },
    facts=("created", "create_failed", "deleted"),
    moves={
        "use": {"Available": Allow("Available")},
        "delete": {s: Allow("Deleting", "delete_image") for s in ("Available", "CreateFailed")},
        "modify": {s: Allow(s) for s in ("Creating", "Available", "CreateFailed")},
        "created": {"Creating": Allow("Available")},
        "create_failed": {"Creating": Allow("CreateFailed")},
        "deleted": {"Deleting": Allow(GONE)},
    },
)
