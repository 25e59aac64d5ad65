"""Set-up runs before anything is installed, and the units must be what systemd understands."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = sorted((ROOT / "yuntai" / "lab" / "setup").glob("*.py"))
EARLY = [*SETUP, ROOT / "yuntai/__init__.py", ROOT / "yuntai/lab/__init__.py", ROOT / "yuntai/lab/layout.py"]
UNITS = sorted((ROOT / "packaging" / "systemd").iterdir())
SCRIPTS = [*sorted((ROOT / "bin").iterdir()), ROOT / ".ci" / "run"]
# Known from systemd 254 on; Debian 13, which a production host runs, has 257.
NEWER_KEYS = ("RestartSteps", "RestartMaxDelaySec")


@pytest.mark.parametrize("path", [*EARLY, ROOT / "yuntai/lab/wait.py"], ids=lambda path: path.name)
def test_what_runs_first_needs_only_the_standard_library(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            ours = module.startswith("yuntai.lab.setup") or module == "yuntai.lab.layout"
            assert module.partition(".")[0] in sys.stdlib_module_names or ours, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_clean(path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; run: make test")
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; run: make test")
    for unit in UNITS:
        # The programs are not installed where the tests run; a program that is anywhere stands for them.
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text())
        (tmp_path / unit.name.replace("@.", "@1.")).write_text(text)
    command = ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in done.stderr.splitlines() if not any(f"'{key}'" in line for key in NEWER_KEYS)]
    assert (done.returncode, [line for line in said if str(tmp_path) in line]) == (0, [])


def test_every_process_of_the_product_has_a_unit() -> None:
    assert {unit.name for unit in UNITS} == {
        "yuntai.target",
        "yuntai-chunkserver@.service",
        *(f"yuntai-{name}.service" for name in ("gateway", "master", "control", "api", "agent", "metadata")),
    }


def test_every_unit_restarts_and_belongs_to_the_target() -> None:
    for unit in UNITS:
        if unit.suffix == ".service":
            text = unit.read_text()
            for line in ("Restart=always", "PartOf=yuntai.target", "WantedBy=yuntai.target", "NoNewPrivileges=yes"):
                assert line in text.splitlines(), f"{unit.name} lacks {line}"
