"""Command line: ``python -m yuntai.guest tiny|debian OUT_DIR`` builds an image, ``packages`` lists what that needs."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from yuntai.guest import debian, tiny
from yuntai.guest.debs import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.guest.disk import Stamp

PACKAGES = ("e2fsprogs", "mmdebstrap", "qemu-utils", "zstd")
_PROGRAMS = {"mke2fs": "e2fsprogs", "mmdebstrap": "mmdebstrap", "qemu-img": "qemu-utils", "zstd": "zstd"}
_BUILDERS: dict[str, Callable[[Path], Stamp]] = {"tiny": tiny.build, "debian": debian.build}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m yuntai.guest", description="Build guest images.")
    parser.add_argument("image", choices=[*_BUILDERS, "packages"])
    parser.add_argument("out_dir", nargs="?", type=Path, help="folder for IMAGE.qcow2 and IMAGE.json")
    args = parser.parse_args(argv)
    if args.image == "packages":
        sys.stdout.write(" ".join(PACKAGES) + "\n")
        return 0
    if args.out_dir is None:
        parser.error(f"name the folder that {args.image}.qcow2 goes to")
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        sys.stderr.write(f"programs of these packages are missing; run: apt-get install {' '.join(missing)}\n")
        return 1
    args.out_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        stamp = _BUILDERS[args.image](args.out_dir.resolve() / f"{args.image}.qcow2")
    except BuildError as error:
        sys.stderr.write(f"{args.image}: {error}\n")
        return 1
    took = time.monotonic() - began
    sys.stdout.write(f"{stamp.name}: {stamp.os_name}, {stamp.size_bytes / 1e6:.1f} MB, built in {took:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
