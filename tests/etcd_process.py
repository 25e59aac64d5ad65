"""A real etcd on loopback in a temporary folder, for tests: start, kill, start again on the same data."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.ports import free_port

START_TIMEOUT_S = 60.0
INSTALL_TIMEOUT_S = 300


def ensure_installed() -> str:
    """Return the path of ``etcd``; install Debian's package when it is missing."""
    found = shutil.which("etcd")
    if found is None:
        subprocess.run(["apt-get", "install", "-y", "etcd-server"], check=True, timeout=INSTALL_TIMEOUT_S)
        found = shutil.which("etcd")
    assert found, "etcd is not installed and could not be installed: apt-get install etcd-server"
    return found


class EtcdProcess:
    """One etcd, alone in its cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.peer_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self.peer_port}"
        with (self.folder / "etcd.log").open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *(ensure_installed(), "--name=test", f"--data-dir={self.folder / 'etcd'}"),
                    *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                    *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                    f"--initial-cluster=test={peer}",
                ],
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._serves():
                return
            assert self.process.poll() is None, (self.folder / "etcd.log").read_text()[-2000:]
            time.sleep(0.05)
        raise AssertionError(f"etcd did not serve on {self.endpoint} within {START_TIMEOUT_S} s")

    def _serves(self) -> bool:
        """Whether it has a leader and answers: it listens before that, longer on a busy machine."""
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            asking.request("GET", "/health")
            return bool(json.loads(asking.getresponse().read())["health"] == "true")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            asking.close()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; after SIGSTOP, return when every thread has stopped, so that no answer still comes."""
        if self.process is not None:
            self.process.send_signal(number)
            if number == signal.SIGSTOP:
                os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=10)
            self.process = None
