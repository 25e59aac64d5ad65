"""Command line of set-up: ``up``, ``down``, ``clean`` and ``tools``; the Makefile calls it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from yuntai.lab.layout import REPOSITORY, Home, default_home
from yuntai.lab.setup import image, packages, preflight, programs
from yuntai.lab.setup.runner import Runner
from yuntai.lab.setup.steps import Log, Step, remove, replaced

AGAIN = "run the same command again; what is done stays done"
APT = "repair apt with `apt-get update` and `apt-get -f install`"
NETWORK = "check the network; the log above names what could not be fetched"
HOST_S = 240
FIRST_VM_S = 900
STOP_S = 300


def steps(home: Home, codename: str) -> list[Step]:
    """Return the steps of set-up in order."""
    wanted = packages.wanted(codename)
    return [
        Step(
            "packages",
            "Debian packages",
            lambda: "",
            lambda: not packages.missing(wanted),
            lambda log: packages.install(log, packages.missing(wanted)),
            APT,
        ),
        Step(
            "venv",
            "Python environment",
            programs.venv_inputs,
            programs.venv_is_there,
            lambda log: programs.build_venv(log, ""),
            NETWORK,
            ("packages",),
        ),
        Step(
            "rust",
            "Rust programs and extension",
            programs.rust_inputs,
            lambda: programs.rust_is_there(home),
            lambda log: programs.build_rust(home, log),
            f"the log has the compiler's message; {NETWORK}",
            ("packages",),
        ),
        Step(
            "image",
            "host image",
            image.image_inputs,
            (home.image / "usr/bin/tini").exists,
            lambda log: image.build_image(home, log, codename),
            NETWORK,
            ("packages",),
        ),
        Step(
            "image-venv",
            "host image's Python environment",
            image.venv_inputs,
            (home.image_venv / "bin/supervisord").exists,
            lambda log: image.build_venv(home, log),
            NETWORK,
            ("venv", "image"),
        ),
        *(_guest(home, name) for name in programs.GUESTS),
    ]


def _guest(home: Home, name: str) -> Step:
    return Step(
        f"guest-{name}",
        f"guest image {name}",
        lambda: programs.guest_inputs(name),
        lambda: programs.guest_is_there(home, name),
        lambda log: programs.build_guest(home, log, name),
        NETWORK,
        ("venv",),
    )


def test_steps(codename: str) -> list[Step]:
    """Return the steps that only the tests need, after the others."""
    wanted = packages.wanted_for_tests(codename)
    return [
        Step(
            "test-packages",
            "Debian packages for tests",
            lambda: "",
            lambda: not packages.missing(wanted),
            lambda log: packages.install(log, packages.missing(wanted)),
            APT,
            ("packages",),
        ),
        Step(
            "test-venv",
            "Python packages for tests",
            programs.venv_inputs,
            programs.venv_is_there,
            lambda log: programs.build_venv(log, "dev"),
            NETWORK,
            ("venv",),
        ),
    ]


def up(options: argparse.Namespace) -> int:
    """Set everything up, start the host, and hand over to the first VM."""
    began_s = time.monotonic()
    home = Home(default_home())
    codename = _check_first(home, options.api_port)
    with _only_one(home):
        chosen = steps(home, codename)
        Runner(home).run([*chosen, _cloud(home, options, tuple(step.name for step in chosen))])
        code = 0 if options.no_vm else _python("yuntai.cli.firstvm", timeout_s=FIRST_VM_S)
    print(f"make up took {time.monotonic() - began_s:.0f} s")
    return code


def _cloud(home: Home, options: argparse.Namespace, after: tuple[str, ...]) -> Step:
    """Return the step that starts the hosts, or brings running ones to the present code; it always runs."""

    def start(log: Log) -> None:
        lab = (str(programs.PYTHON), "-m", "yuntai.cli", "lab")
        if replaced(home.root):
            log.run(*lab, "down", timeout_s=STOP_S, cwd=REPOSITORY)
            for leftover in replaced(home.root):
                remove(leftover)
        words = [("--api-port", options.api_port), ("--hosts", options.hosts), ("--racks", options.racks)]
        given = [word for name, value in words if value is not None for word in (name, str(value))]
        log.run(*lab, "up", *given, timeout_s=HOST_S, cwd=REPOSITORY)

    way_out = f"the processes' own logs are in {home.host('h1').log}/yuntai; `make down` and `make up` begin afresh"
    return Step("cloud", "cloud", str, lambda: False, start, way_out, after)


@contextlib.contextmanager
def _only_one(home: Home) -> Iterator[None]:
    """Hold the lock of set-up, so that two of them never build the same thing."""
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home.root / "setup.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another set-up of {home.root} is running. Way out: wait for it, or end it", file=sys.stderr)
            raise SystemExit(1) from None
        yield


def _check_first(home: Home, api_port: int) -> str:
    """Run the preflight; say all that is wrong and end, or return the machine's codename."""
    codename = preflight.codename()
    chosen = steps(home, codename) if codename else []
    runner = Runner(home)
    situation = preflight.Situation(
        home=home,
        api_port=api_port,
        cold=not home.image.is_dir(),
        needs_network=any(runner.stale(step) for step in chosen),
        running=home.host("h1").record.exists(),
    )
    problems = preflight.check(situation)
    if problems:
        print("Nothing was changed. Before set-up can begin:\n", file=sys.stderr)
        for problem in problems:
            print(f"  - {problem.text}\n    Way out: {problem.way_out}", file=sys.stderr)
        raise SystemExit(2)
    return codename


def _python(module: str, *arguments: str, timeout_s: float) -> int:
    """Run a module of ours in the environment that now exists, on the user's terminal."""
    command = (str(programs.PYTHON), "-m", module, *arguments)
    try:
        return subprocess.run(command, cwd=REPOSITORY, timeout=timeout_s, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"yuntai: `{module} {' '.join(arguments)}` took more than {timeout_s:.0f} s", file=sys.stderr)
        return 1


def tools(_: argparse.Namespace) -> int:
    """Install what the tests need: all of set-up but the large guest image, and the linters."""
    home = Home(default_home())
    codename = _check_first(home, 0)
    built = [step for step in steps(home, codename) if step.name != "guest-debian"]
    with _only_one(home):
        Runner(home).run([*built, *test_steps(codename)])
    return 0


def down(_: argparse.Namespace) -> int:
    """Stop every host; the data stays."""
    if not programs.PYTHON.exists():
        print("nothing was ever set up here")
        return 0
    return _python("yuntai.cli", "lab", "down", timeout_s=STOP_S)


def clean(options: argparse.Namespace) -> int:
    """Stop every host and remove the data folder, after asking."""
    home = default_home()
    if not home.exists():
        print(f"there is no {home}")
        return 0
    if options.confirm != "yes":
        print(f"This deletes {home}: the host image, guest images, and every disk of the cloud.")
        if not sys.stdin.isatty():
            print("Say CONFIRM=yes to do it from a script: make clean CONFIRM=yes", file=sys.stderr)
            return 2
        if input("Type yes to go on: ").strip() != "yes":
            print("nothing was deleted")
            return 1
    code = down(options)
    if code != 0:
        return code
    remove(home)
    print(f"deleted {home}")
    return 0


def _number(variable: str) -> int | None:
    """Return the number that the environment gives, None where it gives none."""
    given = os.environ.get(variable, "")
    if given and not given.isdigit():
        raise SystemExit(f"{variable} is {given!r}; write a number, such as {variable}=4")
    return int(given) if given else None


def main(arguments: list[str]) -> int:
    """Do what ``arguments`` say and return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m yuntai.lab.setup", description="set up a cloud on this machine")
    commands = parser.add_subparsers(dest="action", required=True)
    start = commands.add_parser("up", help="build what is missing, start the cloud and its first VM")
    start.add_argument("--api-port", type=int, default=int(os.environ.get("API_PORT") or 8080))
    start.add_argument("--hosts", type=int, default=_number("HOSTS"), help="how many hosts; as before, or 1")
    start.add_argument("--racks", type=int, default=_number("RACKS"), help="how many racks they stand in")
    start.add_argument("--no-vm", action="store_true", help="leave the first VM out")
    start.set_defaults(run=up)
    commands.add_parser("down", help="stop the cloud; its data stays").set_defaults(run=down)
    commands.add_parser("tools", help="install what the tests need").set_defaults(run=tools)
    delete = commands.add_parser("clean", help="stop the cloud and delete its data")
    delete.add_argument("--confirm", default=os.environ.get("CONFIRM", ""), help="yes: do not ask")
    delete.set_defaults(run=clean)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print(f"\nstopped; {AGAIN}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
