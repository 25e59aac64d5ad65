"""Debian packages and the Rust compiler on the user's machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from yuntai.lab.setup.steps import QUERY_S, Log

# What set-up and the lab itself call. Guests' builders need e2fsprogs and zstd besides.
PACKAGES = (
    *("mmdebstrap", "debian-archive-keyring", "qemu-utils", "libnbd-bin", "e2fsprogs", "zstd"),
    *("iproute2", "ethtool", "openssh-client", "util-linux", "mount", "gcc", "libc6-dev", "ca-certificates"),
)
SYSTEM_PYTHON_PACKAGES = ("python3-venv",)
# Debian 12's own Rust is too old; the packages that its web browsers are built with are not.
CARGO = {"bookworm": ("cargo-web", "rustc-web"), "trixie": ("cargo", "rustc")}
LINTERS = {"bookworm": ("rustfmt-web", "rust-web-clippy"), "trixie": ("rustfmt", "rust-clippy")}
TEST_PACKAGES = (
    *("cpio", "systemd", "etcd-server", "etcd-client", "nbdkit", "fio", "shellcheck"),
    *("qemu-system-x86", "qemu-system-common"),  # guests of single tests, and the bench's peer
)
OLDEST_RUST = (1, 85)
APT_S = 1200
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def missing(names: tuple[str, ...]) -> list[str]:
    """Return those packages that are not installed."""
    query = ("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *names)
    shown = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_S, check=False).stdout
    there = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in there]


def wanted(codename: str) -> tuple[str, ...]:
    """Return the packages that this machine needs, with Rust only where none serves."""
    names: tuple[str, ...] = PACKAGES
    if not can_make_venv():
        names += SYSTEM_PYTHON_PACKAGES
    if find_cargo() is None:
        names += CARGO[codename]
    return names


def wanted_for_tests(codename: str) -> tuple[str, ...]:
    """Return what the tests need besides: an etcd, `systemd-analyze`, and the linters of Rust where there are none."""
    names: tuple[str, ...] = TEST_PACKAGES
    if not all(shutil.which(tool, path=search_path()) for tool in ("cargo-clippy", "rustfmt")):
        names += LINTERS[codename]
    return names


def can_make_venv() -> bool:
    """Return whether this Python brings what a virtual environment needs."""
    check = "import ensurepip, venv"
    return subprocess.run(("python3", "-c", check), capture_output=True, timeout=QUERY_S, check=False).returncode == 0


def install(log: Log, names: list[str]) -> None:
    """Install packages, with fresh lists."""
    if not names:
        return
    log.run("apt-get", "update", timeout_s=APT_S, environment=_QUIET)
    options = ("--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0")
    log.run("apt-get", "install", *options, *names, timeout_s=APT_S, environment=_QUIET)


def search_path() -> str:
    """Return PATH with the folder that rustup installs to, which root's PATH under sudo leaves out."""
    return os.pathsep.join([os.environ.get("PATH", ""), str(Path("~/.cargo/bin").expanduser())])


def find_cargo() -> str | None:
    """Return a cargo that is new enough, or None."""
    cargo = shutil.which("cargo", path=search_path())
    if cargo is None:
        return None
    shown = subprocess.run((cargo, "--version"), capture_output=True, text=True, timeout=QUERY_S, check=False).stdout
    match = re.search(r"cargo (\d+)\.(\d+)", shown)
    return cargo if match and (int(match[1]), int(match[2])) >= OLDEST_RUST else None
