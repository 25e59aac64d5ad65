"""Run commands inside a lab host: its file system, network, processes and names, with a clean environment."""

from __future__ import annotations

import subprocess

from yuntai.lab.hostfiles import ENVIRONMENT
from yuntai.lab.record import Record


def command_inside(record: Record, *command: str, terminal: str | None = None) -> list[str]:
    """Return the command line that runs ``command`` in the host; ``terminal`` is the user's TERM, if any.

    Entering the mount namespace after the host's pivot_root also sets root and working folder.
    """
    environment = {**ENVIRONMENT, "TERM": terminal} if terminal else ENVIRONMENT
    settings = [f"{key}={value}" for key, value in environment.items()]
    enter = ["nsenter", "--target", str(record.init.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
    return [*enter, "env", "--ignore-environment", *settings, *command]


def run_inside(record: Record, *command: str, timeout_s: float = 30) -> str:
    """Run ``command`` in the host and return what it printed; raise SubprocessError when it fails or hangs."""
    done = subprocess.run(
        command_inside(record, *command), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise subprocess.SubprocessError(
            f"`{' '.join(command)}` failed with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
