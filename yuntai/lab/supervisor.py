"""The supervisor's XML-RPC on its unix socket, from outside the host."""

from __future__ import annotations

import http.client
import os
import socket
import time
import xmlrpc.client
from pathlib import Path
from typing import Any, cast

CALL_S = 30.0
POLL_S = 0.02
_NOT_RUNNING = 70  # supervisor.xmlrpc.Faults.NOT_RUNNING
_RUNS_SOON = ("RUNNING", "STARTING", "BACKOFF")
_STOPPED = ("STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN")


class SupervisorError(RuntimeError):
    """The supervisor does not answer, or refuses."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        # Through the folder's descriptor, as the path itself may be longer than a socket's address can be.
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path, self._timeout_s = path, timeout_s

    def make_connection(self, host: object) -> http.client.HTTPConnection:  # noqa: ARG002 - the base class's name
        return _Connection(self._path, self._timeout_s)


class Supervisor:
    """A client of the supervisor behind ``path``."""

    def __init__(self, path: Path, timeout_s: float = CALL_S) -> None:
        self._proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(path, timeout_s))

    def call(self, method: str, *arguments: object) -> Any:
        """Call ``supervisor.METHOD``; raise :class:`SupervisorError` when it fails."""
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise SupervisorError(f"{method}{arguments}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise SupervisorError(f"the supervisor does not answer: {error}") from error

    def answers(self) -> bool:
        """Return whether it runs its programs."""
        try:
            return bool(self.call("getState")["statename"] == "RUNNING")
        except SupervisorError:
            return False

    def processes(self) -> list[dict[str, Any]]:
        """Return what it knows of each program."""
        return cast("list[dict[str, Any]]", self.call("getAllProcessInfo"))

    def stop_if_present(self, name: str) -> None:
        """Stop the program ``name`` and wait for its end; one that is unknown or does not run is fine.

        One that has only begun to start, or waits to be tried again, would run a moment later.
        """
        if any(program["name"] == name and program["statename"] in _RUNS_SOON for program in self.processes()):
            try:
                self.call("stopProcess", name, True)
            except SupervisorError as error:
                fault = error.__cause__
                if not isinstance(fault, xmlrpc.client.Fault) or fault.faultCode != _NOT_RUNNING:
                    raise  # else it has ended by itself meanwhile

    def stop_in_order(self, names: list[str], timeout_s: float) -> None:
        """Stop the programs ``names`` one after the other, then the supervisor itself.

        It could stop them by itself, but it looks at what has ended only once a second; a call wakes it.
        """
        deadline = time.monotonic() + timeout_s
        states = {program["name"]: program["statename"] for program in self.processes()}
        for name in names:
            if states.get(name, "STOPPED") in _STOPPED:
                continue
            self.call("stopProcess", name, False)
            while self.call("getProcessInfo", name)["statename"] not in _STOPPED:
                if time.monotonic() > deadline:
                    raise SupervisorError(f"{name} has not stopped within {timeout_s:.0f} s")
                time.sleep(POLL_S)
        self.call("shutdown")

    def start(self, name: str) -> None:
        """Start the program ``name``."""
        self.call("startProcess", name, True)

    def restart(self, name: str) -> None:
        """Stop the program ``name`` if it runs, and start it."""
        self.stop_if_present(name)
        self.start(name)
