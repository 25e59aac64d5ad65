"""A network of its own for every part: namespaces joined by one router, whose routes between two parts can be cut.

All of it is made inside private namespaces (:func:`enter`), so that it is gone, with every process in it, as soon as
the process that entered them is, however that ends. Nothing of the machine's own network or mounts is touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_INSIDE = "YUNTAI_THRASH_INSIDE"
_NETNS = Path("/run/netns")
_ALONE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def enter(module: str, arguments: list[str]) -> None:
    """Go on in private namespaces: network, mounts and processes. Returns in there; outside it never returns."""
    if os.environ.get(_INSIDE) == "yes":
        return
    os.environ[_INSIDE] = "yes"
    os.execvp(_ALONE[0], [*_ALONE, sys.executable, "-m", module, *arguments])


class Net:
    """The router is the namespace that we are in; parts are ``10.99.N.2`` behind a link each."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}
        self._cuts: set[tuple[str, str]] = set()

    def start(self) -> None:
        assert os.environ.get(_INSIDE) == "yes", "only in private namespaces"
        _NETNS.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "none", str(_NETNS))
        run("ip", "link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def add(self, part: str) -> str:
        """Make a part's namespace and link; return its address."""
        number = len(self._addresses) + 1
        link, inner, outer = f"p{number}", f"10.99.{number}.2", f"10.99.{number}.1"
        run("ip", "netns", "add", part)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", part)
        run("ip", "addr", "add", f"{outer}/24", "dev", link)
        run("ip", "link", "set", link, "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{inner}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", outer),
        ):
            run("ip", "-n", part, *command)
        self._addresses[part] = inner
        return inner

    def command(self, part: str) -> list[str]:
        """Return what to put in front of a command so that it runs in the part's namespace, under its own pid."""
        return ["nsenter", f"--net={_NETNS / part}"]

    def cut(self, source: str, target: str) -> None:
        """Drop, without a word to anybody, every packet that goes from one part to another."""
        if (source, target) not in self._cuts:
            self._cuts.add((source, target))
            self._rule("add", source, target)

    def mend(self, source: str, target: str) -> None:
        """Let packets pass again."""
        if (source, target) in self._cuts:
            self._cuts.remove((source, target))
            self._rule("del", source, target)

    def mend_all(self) -> None:
        for source, target in list(self._cuts):
            self.mend(source, target)

    def _rule(self, verb: str, source: str, target: str) -> None:
        ends = ("from", self._addresses[source], "to", self._addresses[target])
        run("ip", "rule", verb, "pref", "100", *ends, "blackhole")


def run(*command: str) -> str:
    """Run a short command; fail with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


def start_logged(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program that writes what it says to the end of a file."""
    with log.open("ab") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
