"""What is built from this repository: the Python environment, the Rust programs and extension, the guests' images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from yuntai.lab.layout import REPOSITORY, Home
from yuntai.lab.setup import packages
from yuntai.lab.setup.image import CONSTRAINTS
from yuntai.lab.setup.steps import Log, SetupError, digest, digest_files, remove

VENV = REPOSITORY / ".venv"
PYTHON = VENV / "bin" / "python"
EXTENSION = REPOSITORY / "yuntai" / "_native.abi3.so"
RUST_PROGRAMS = {"yuntai-replica": "yuntai-chunkserver", "yuntai-volume": "yuntai-gateway"}
GUESTS = ("tiny", "debian")
PIP_S, CARGO_S, GUEST_S = 900, 3600, 1800
# Left in the environment while it is being filled: one that was interrupted is made anew.
_UNFINISHED = VENV / ".unfinished"


def venv_inputs() -> str:
    """Return what the machine's Python environment depends on."""
    return digest_files([REPOSITORY / "pyproject.toml", CONSTRAINTS])


def venv_is_there() -> bool:
    """Return whether the environment is whole."""
    return PYTHON.exists() and not _UNFINISHED.exists()


def build_venv(log: Log, extra: str) -> None:
    """Make or refresh ``.venv`` with the pinned packages and this project, editable.

    ``extra`` is "" or a group of optional packages in pyproject.toml.
    """
    if _UNFINISHED.exists() or not PYTHON.exists():
        log.run("python3", "-m", "venv", "--clear", str(VENV), timeout_s=PIP_S)
        _UNFINISHED.touch()
    what = f"{REPOSITORY}[{extra}]" if extra else str(REPOSITORY)
    options = ("--disable-pip-version-check", "--constraint", str(CONSTRAINTS))
    log.run(str(PYTHON), "-m", "pip", "install", *options, "--editable", what, timeout_s=PIP_S)
    _UNFINISHED.unlink(missing_ok=True)


def rust_inputs() -> str:
    """Return what the Rust programs and the extension depend on."""
    names = ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "crates")
    return digest_files(REPOSITORY / name for name in names)


def build_rust(home: Home, log: Log) -> None:
    """Build the programs and the extension in one go, and put each in its place as a whole."""
    cargo = packages.find_cargo()
    if cargo is None:
        raise SetupError("there is no cargo 1.85 or newer", "run: apt-get update, then the same command again")
    wanted = [word for crate in (*RUST_PROGRAMS, "yuntai-native") for word in ("--package", crate)]
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    environment = {"CARGO_TARGET_DIR": str(target), "PATH": packages.search_path()}
    command = (cargo, "build", "--release", "--locked", *wanted)
    log.run(*command, timeout_s=CARGO_S, cwd=REPOSITORY, environment=environment)
    home.programs.mkdir(parents=True, exist_ok=True)
    for program in RUST_PROGRAMS.values():
        _place(target / "release" / program, home.programs / program)
    _place(target / "release" / "lib_native.so", EXTENSION)


def rust_is_there(home: Home) -> bool:
    """Return whether the programs and the extension are in their places."""
    return EXTENSION.exists() and all((home.programs / program).exists() for program in RUST_PROGRAMS.values())


def _place(made: Path, final: Path) -> None:
    """Copy a file to its place in one step; a process that runs the former one keeps it."""
    partial = final.with_name(final.name + ".partial")
    shutil.copy2(made, partial)
    partial.replace(final)


def guest_inputs(name: str) -> str:
    """Return what the guest image ``name`` depends on: its builder."""
    return digest(name, digest_files([REPOSITORY / "yuntai" / "guest"]))


def build_guest(home: Home, log: Log, name: str) -> None:
    """Build the guest image ``name`` beside its place, and move it there."""
    partial = home.guest / f"{name}.partial"
    remove(partial)
    partial.mkdir(parents=True)
    command = (str(PYTHON), "-m", "yuntai.guest", name, str(partial))
    log.run(*command, timeout_s=GUEST_S, cwd=REPOSITORY)
    for file in sorted(partial.iterdir()):
        file.replace(home.guest / file.name)
    partial.rmdir()


def guest_is_there(home: Home, name: str) -> bool:
    """Return whether the guest image ``name`` is in its place."""
    return (home.guest / f"{name}.qcow2").exists() and (home.guest / f"{name}.json").exists()
