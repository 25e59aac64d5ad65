"""Whether this host's KVM really runs guests.

A ``/dev/kvm`` that exists proves nothing: in some virtual machines it opens, and the guest then hangs at its start. The
probe guest is 142 bytes of firmware. It goes the way of every kernel: real mode, page tables, long mode; counts a
little; prints a letter; and ends QEMU through its debug-exit device. What the bytes do is said below, line by line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from yuntai import log

if TYPE_CHECKING:
    from yuntai.compute.driver import Accelerator

QEMU = "qemu-system-x86_64"
TIMEOUT_S = 3.0
_ROM_BYTES = 65536
_LETTER = b"Y"
_EXIT_CODE = 33  # what the guest writes (0x10) times two plus one: QEMU's isa-debug-exit
_CODE = bytes.fromhex(
    "fa31c08ed8"  # cli; ds = 0
    "66c706001003200000"  # page tables at 0x1000: the first 2 MiB
    "66c706002003300000"
    "66c706003083000000"
    "2e660f01168800"  # lgdt, the table at the end
    "0f20e06683c8200f22e0"  # cr4.PAE
    "66b8001000000f22d8"  # cr3 = 0x1000
    "66b9800000c00f32660d000100000f30"  # EFER.LME
    "0f20c0660d010000800f22c0"  # cr0.PG and cr0.PE
    "66ea5e000f000800"  # far jump into 64-bit code
    "b9a08601004801cbffc975f9"  # add 100,000 numbers
    "b059e6e9"  # print "Y"
    "b010e6f4"  # leave
    "f4ebfd0f1f00"  # halt for ever, should that not work
    "0000000000000000"  # descriptors: none …
    "00000000009a2000"  # … and 64-bit code
    "0f0078000f00"  # their size and place
)
_LOG = log.get("compute.probe")


def rom() -> bytes:
    """Return the probe's firmware: the code, and at the end the jump that a processor begins with."""
    image = bytearray(_ROM_BYTES)
    image[: len(_CODE)] = _CODE
    image[-16:-11] = b"\xea\x00\x00\x00\xf0"
    return bytes(image)


async def runs(accelerator: Accelerator, timeout_s: float = TIMEOUT_S) -> bool:
    """Start the probe guest with an accelerator; return whether it printed its letter and left in time."""
    with tempfile.NamedTemporaryFile(prefix="yuntai-probe-", suffix=".bin") as firmware:
        firmware.write(rom())
        firmware.flush()
        args = [
            "-accel", accelerator, "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none",
            "-bios", firmware.name, "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        ]  # fmt: skip
        try:
            process = await asyncio.create_subprocess_exec(
                QEMU,
                *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            _LOG.warning("probe not started", program=QEMU, error=str(error))
            return False
        try:
            out, _ = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return False
    return process.returncode == _EXIT_CODE and out == _LETTER


async def accelerator(cache: Path, device: Path = Path("/dev/kvm")) -> Accelerator:
    """Return what guests of this host run on. The answer is kept in ``cache``, a file that a reboot removes."""
    known = await asyncio.to_thread(_recall, cache)
    if known is not None:
        return known
    usable = os.access(device, os.R_OK | os.W_OK) and await runs("kvm")
    found: Accelerator = "kvm" if usable else "tcg"
    _LOG.info("accelerator probed", accelerator=found)
    await asyncio.to_thread(_keep, cache, found)
    return found


def _recall(cache: Path) -> Accelerator | None:
    try:
        known = json.loads(cache.read_bytes())["accelerator"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return "kvm" if known == "kvm" else "tcg" if known == "tcg" else None


def _keep(cache: Path, found: Accelerator) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    partial.write_text(json.dumps({"accelerator": found}), encoding="ascii")
    partial.replace(cache)
