"""The running cloud that a figure measures: its host, its AccessKey, its API."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from bench.client import Client, Key
from bench.measure import CannotMeasure
from yuntai.lab.enter import command_inside
from yuntai.lab.record import Record, running
from yuntai.lab.spec import HostSpec, load_host

if TYPE_CHECKING:
    from pathlib import Path

HOST = "h1"


class _Credentials(msgspec.Struct):
    access_key_id: str
    access_key_secret: str


@dataclass(frozen=True, slots=True)
class Cloud:
    """A cloud on this machine."""

    home: Path
    spec: HostSpec
    record: Record

    @classmethod
    def find(cls, home: Path) -> Cloud:
        """Return the cloud whose data is in ``home``; raise :class:`CannotMeasure` where none runs."""
        spec = load_host(home, HOST)
        record = running(spec.cluster.home(home), HOST) if spec else None
        if spec is None or record is None:
            raise CannotMeasure(f"no cloud runs from {home}; start it with: make up")
        return cls(home, spec, record)

    def client(self) -> Client:
        """Return a client of the API with the operator's AccessKey."""
        path = self.home / "credentials.json"
        try:
            credentials = msgspec.json.decode(path.read_bytes(), type=_Credentials)
        except (OSError, msgspec.DecodeError) as error:
            raise CannotMeasure(f"no AccessKey in {path} ({error}); `make up` writes it") from error
        if not self.spec.cluster.api_port:
            raise CannotMeasure("this cloud has no port on the machine's loopback; give it one with API_PORT")
        return Client("127.0.0.1", self.spec.cluster.api_port, Key(*msgspec.structs.astuple(credentials)))

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs ``command`` in the host."""
        return command_inside(self.record, *command)

    def run(self, *command: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command in the host, whatever it returns."""
        return subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout_s, check=False)
