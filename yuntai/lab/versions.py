"""Which code each process of a host was started from, so that a second start brings a running host up to date."""

from __future__ import annotations

import hashlib
from pathlib import Path

from yuntai.lab.layout import REPOSITORY, Home
from yuntai.lab.services import PROGRAMS, PYTHON, services
from yuntai.lab.spec import HostSpec

# What the processes never import; a change here restarts none of them.
_NOT_IN_HOSTS = ("lab", "cli", "guest")


def code_of_services(spec: HostSpec, home: Home) -> dict[str, str]:
    """Return a hash of the code behind each service of ours; the engines come with the image."""
    python = _python_digest()
    found = {}
    for service in services(spec):
        program = service.command[0]
        if program == PYTHON:
            found[service.name] = python
        elif program.startswith(PROGRAMS + "/"):
            found[service.name] = _file_digest(home.programs / Path(program).name)
    return found


def _python_digest() -> str:
    package = REPOSITORY / "yuntai"
    state = hashlib.sha256()
    files = [*package.rglob("*.py"), *package.glob("_native*.so")]
    for file in sorted(files):
        if file.relative_to(package).parts[0] not in _NOT_IN_HOSTS:
            state.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return state.hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
