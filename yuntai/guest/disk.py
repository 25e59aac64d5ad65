"""A bootable disk image in a file: MBR, GRUB for BIOS behind it, one ext4 partition. No loop device, no mount.

The layout is what ``grub-install`` would leave on a disk with a DOS label: ``boot.img`` in the first sector around the
partition table, ``core.img`` from the second sector on, the partition at 1 MiB.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from yuntai.guest.debs import BuildError, run

if TYPE_CHECKING:
    from pathlib import Path

GRUB_PACKAGES = ("grub-common", "grub-pc-bin", "libdevmapper1.02.1")
SECTOR_BYTES = 512
PARTITION_START_BYTES = 1 << 20
_LINUX = 0x83
_BOOT_CODE_BYTES = 440


@dataclass(frozen=True)
class Grub:
    """GRUB's parts: ``boot.img`` and ``core.img`` as bytes."""

    boot: bytes
    core: bytes


@dataclass(frozen=True)
class Stamp:
    """What is written beside an image, for whoever imports it."""

    name: str
    os_name: str
    size_bytes: int  # of the file
    virtual_size_bytes: int  # of the disk in it
    sha256: str
    version: str


def grub(root: Path, modules: tuple[str, ...], commands: str = "") -> Grub:
    """Make GRUB from the unpacked :data:`GRUB_PACKAGES` in ``root``; its prefix is the disk's first partition.

    ``commands`` run at once; without them GRUB reads ``/boot/grub/grub.cfg`` (and needs the module ``normal``).
    """
    images = root / "usr/lib/grub/i386-pc"
    script, core = root / "commands.cfg", root / "core.img"
    script.write_text(commands, encoding="ascii")
    libraries = ":".join(sorted({str(path.parent) for path in root.glob("**/libdevmapper.so*")}))
    run(
        [
            "env", f"LD_LIBRARY_PATH={libraries}", str(root / "usr/bin/grub-mkimage"), "-O", "i386-pc",
            "-d", str(images), "-p", "(,msdos1)/boot/grub", *(["-c", str(script)] if commands else []),
            "-o", str(core), *modules,
        ]
    )  # fmt: skip
    return Grub(boot=(images / "boot.img").read_bytes(), core=core.read_bytes())


def partition_table(start_bytes: int, size_bytes: int, disk_id: int) -> bytes:
    """Return bytes 440..512 of the MBR: disk id, one bootable Linux partition, signature. LBA only; CHS is not used."""
    chs = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, chs, _LINUX, chs, start_bytes // SECTOR_BYTES, size_bytes // SECTOR_BYTES)
    return struct.pack("<IH", disk_id, 0) + entry + bytes(48) + b"\x55\xaa"


def write_raw(path: Path, tree: Path, grub: Grub, *, size_bytes: int, label: str) -> None:
    """Write the raw disk ``path`` of ``size_bytes`` with the folder ``tree`` as its root file system."""
    if len(grub.boot) != SECTOR_BYTES:
        raise BuildError(f"GRUB's boot.img has {len(grub.boot)} bytes instead of {SECTOR_BYTES}; reinstall grub-pc-bin")
    if len(grub.core) > PARTITION_START_BYTES - SECTOR_BYTES:
        raise BuildError(f"GRUB's core.img has {len(grub.core)} bytes, more than the gap before the partition holds")
    part_bytes = size_bytes - PARTITION_START_BYTES
    with path.open("wb") as disk:
        disk.truncate(size_bytes)
        disk.write(grub.boot[:_BOOT_CODE_BYTES])
        disk.write(partition_table(PARTITION_START_BYTES, part_bytes, int.from_bytes(os.urandom(4), "little")))
        disk.write(grub.core)
    # What GRUB 2.06 does not know (metadata_csum_seed) would stop the boot.
    run(
        [
            "mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", str(tree), "-m", "1",
            "-O", "^metadata_csum_seed",
            "-E", f"offset={PARTITION_START_BYTES},lazy_itable_init=1,nodiscard,root_owner=0:0",
            str(path), f"{part_bytes // 1024}k",
        ]
    )  # fmt: skip


def publish(raw: Path, out: Path, *, os_name: str, version: str) -> Stamp:
    """Compress ``raw`` to ``out`` (qcow2, zstd) with its stamp ``out.json``; both appear by rename, the image last."""
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", str(raw), str(partial)]
    )
    digest = hashlib.sha256()
    with partial.open("rb") as image:
        while block := image.read(1 << 20):
            digest.update(block)
    stamp = Stamp(
        name=out.stem,
        os_name=os_name,
        size_bytes=partial.stat().st_size,
        virtual_size_bytes=raw.stat().st_size,
        sha256=digest.hexdigest(),
        version=version,
    )
    note = out.with_suffix(".json")
    draft = note.with_name(f".{note.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(stamp), indent=2) + "\n", encoding="utf-8")
    draft.replace(note)
    partial.replace(out)
    return stamp
