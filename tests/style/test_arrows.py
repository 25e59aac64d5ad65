"""Imports run one way. A package may import what stands below it, and nothing beside or above.

The map is ARCHITECTURE.md, "What may import what"; a change here is a change there.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "yuntai"

BASE = {"config", "log", "process", "tls", "_native"}
"""Modules that everybody may import: configuration, logging, a process's life, certificates, the native extension."""

ARROWS: dict[str, set[str]] = {
    "config": set(),
    "log": set(),
    "process": set(),
    "tls": set(),
    "model": set(),
    "state": {"model"},
    "pangu": {"state", "model"},
    "image": {"pangu", "state", "model"},
    "network": {"state", "model"},
    "metadata": {"state", "model", "network"},
    "compute": {"pangu", "network", "state", "model"},
    "guest": set(),
    "archive": set(),
    "control": {"pangu", "image", "compute", "network", "state", "model"},
    "api": {"control", "pangu", "image", "compute", "network", "state", "model"},
    "lab": {"guest", "model"},
    "join": {"compute", "state", "model"},
    "cli": {"join", "lab", "guest", "archive", "image", "pangu", "state", "model"},
}


def package_of(path: Path) -> str:
    """Return the first name below ``yuntai``: the package, or the module if it stands alone."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the names below ``yuntai`` that a file imports, wherever in the file the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            module = node.module or ""
            if module == "yuntai":
                names |= {alias.name for alias in node.names}
            elif module.startswith("yuntai."):
                names.add(module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("yuntai.")}
    return {name for name in names if not name.startswith("__")}


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    package = package_of(path)
    assert package in ARROWS, f"{package} has no place in the map: add it to ARROWS and to ARCHITECTURE.md"
    wrong = imported(path) - ARROWS[package] - BASE - {package}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which do not stand below {package}"


def test_only_state_talks_to_etcd() -> None:
    users = {package_of(p) for p in FILES if "aetcd" in p.read_text()}
    assert users <= {"state"}, f"only yuntai.state may use the etcd client, but so does {sorted(users - {'state'})}"


def test_only_the_archive_talks_to_object_stores() -> None:
    users = {package_of(p) for p in FILES if "obstore" in p.read_text()}
    assert users <= {"archive"}, f"only yuntai.archive may use the object store client, but so does {sorted(users)}"


def test_the_map_has_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ARROWS):
        ready = {name for name, below in ARROWS.items() if name not in done and below <= done}
        assert ready, f"a circle among {sorted(set(ARROWS) - done)}"
        done |= ready
