"""Debian packages of the machine's own release as files: download, unpack, find what a program needs to run."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

APT_TIMEOUT_S = 300.0


class BuildError(Exception):
    """The image cannot be built here; the text says what is missing and the way out."""


@dataclass(frozen=True)
class Release:
    """The Debian release that this machine runs, which is also the release of the images made on it."""

    number: str
    codename: str


def run(args: list[str], *, cwd: Path | None = None, timeout_s: float = APT_TIMEOUT_S) -> str:
    """Run a program and return what it printed; raise :class:`BuildError` with its last lines where it fails."""
    try:
        done = subprocess.run(
            args, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise BuildError(f"`{args[0]}` is not installed; run: python -m yuntai.guest packages") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"`{' '.join(args[:3])}` had not finished after {timeout_s:.0f} s; try again") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise BuildError(f"`{' '.join(args[:4])}` ended with code {done.returncode}:\n{tail}")
    return done.stdout


def release(os_release: Path = Path("/etc/os-release")) -> Release:
    """Return this machine's Debian release; refuse a machine that is not Debian, for its packages are the recipe."""
    fields = dict(line.split("=", 1) for line in os_release.read_text(encoding="utf-8").splitlines() if "=" in line)
    values = {name: value.strip('"') for name, value in fields.items()}
    if values.get("ID") != "debian":
        raise BuildError(f"{os_release}: ID is {values.get('ID')!r}; guest images are built on Debian 12 or 13")
    return Release(values.get("VERSION_ID", ""), values.get("VERSION_CODENAME", ""))


def mirrors(codename: str) -> list[str]:
    """Return the one-line sources of Debian itself that this machine's apt uses, its updates and security included."""
    fields = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    listed = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    found: list[str] = []
    for line in listed.splitlines():
        origin, uri, suite, component, key = (line.split("|") + [""] * 5)[:5]
        if origin not in {"Debian", "Debian-Security"} or component != "main" or not suite.startswith(codename):
            continue
        signed = f" [signed-by={key}]" if key.startswith("/") else ""
        source = f"deb{signed} {uri} {suite} main"
        if source not in found:
            found.append(source)
    if not found:
        raise BuildError(f"apt knows no source of Debian {codename} main; add one, then run: apt-get update")
    return found


def dependency(package: str, pattern: str) -> str:
    """Return the first package in the Depends of ``package`` whose name matches ``pattern``."""
    shown = run(["apt-cache", "show", "--no-all-versions", package])
    depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
    names = [name.split()[0] for name in re.split(r"[,|]", depends.group(1))] if depends else []
    for name in names:
        if re.fullmatch(pattern, name):
            return name
    raise BuildError(f"package {package} depends on nothing like {pattern!r}, only on {names}; run: apt-get update")


def fetch(packages: list[str], into: Path) -> None:
    """Download ``packages`` (without their dependencies) and unpack them all into the folder ``into``."""
    store = into.with_name(into.name + ".debs")
    store.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        run(command, cwd=store)
    except BuildError:
        # The lists on this machine may be older than the archive: one refresh, then the answer is final.
        run(["apt-get", "-q", "update"])
        run(command, cwd=store)
    into.mkdir(parents=True, exist_ok=True)
    for deb in sorted(store.glob("*.deb")):
        run(["dpkg-deb", "-x", str(deb), str(into)])
    shutil.rmtree(store)


def closure(package: str) -> list[str]:
    """Return ``package`` and all packages that it needs to run, as apt resolves them."""
    flags = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    listed = run(["apt-cache", "depends", "--recurse", *flags, package])
    names = {line for line in listed.splitlines() if line and not line.startswith((" ", "<", "|"))}
    return sorted(name for name in names if ":" not in name or name.endswith(":amd64"))


def libraries(program: Path, root: Path) -> dict[str, Path]:
    """Return what ``program`` loads (path in the guest → file under ``root``), by asking its own loader."""
    loader = next((p for p in root.glob("**/ld-linux-x86-64.so.2") if p.is_file()), None)
    if loader is None:
        raise BuildError(f"no dynamic loader under {root}; libc6 was not unpacked")
    folders = sorted({str(lib.parent) for lib in root.glob("**/x86_64-linux-gnu/*.so*")})
    listed = run([str(loader), "--library-path", ":".join(folders), "--list", str(program)])
    found = {"/lib64/ld-linux-x86-64.so.2": loader}
    for name, path in re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE):
        if not Path(path).is_relative_to(root):
            raise BuildError(f"{program.name} needs {name}, which no unpacked package holds (the host's is {path})")
        found[f"/lib/{Path(name).name}"] = Path(path)
    return found


def module(root: Path, name: str) -> bytes | None:
    """Return the kernel module ``name`` uncompressed (Debian 13 ships ``.ko.xz``), or None where it is built in."""
    for found in sorted(root.glob(f"**/kernel/**/{name}.ko*")):
        data = found.read_bytes()
        return lzma.decompress(data) if found.suffix == ".xz" else data
    return None
