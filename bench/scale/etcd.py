"""What etcd says of itself: writes, bytes, size."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """Counters since etcd's start, and the size of its file."""

    puts: float
    txns: float
    bytes_in: float
    bytes_out: float
    file_bytes: float

    def minus(self, before: Figures) -> Figures:
        """Return what happened since; the size stays as it is."""
        return Figures(
            self.puts - before.puts,
            self.txns - before.txns,
            self.bytes_in - before.bytes_in,
            self.bytes_out - before.bytes_out,
            self.file_bytes,
        )


def figures(endpoint: str) -> Figures:
    """Ask for the counters."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    values: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not name.startswith("#"):
            values[name.partition("{")[0]] = values.get(name.partition("{")[0], 0.0) + float(value)

    def of(*names: str) -> float:
        return next((values[name] for name in names if name in values), 0.0)

    return Figures(
        of("etcd_mvcc_put_total", "etcd_debugging_mvcc_put_total"),
        of("etcd_mvcc_txn_total", "etcd_debugging_mvcc_txn_total"),
        of("etcd_network_client_grpc_received_bytes_total"),
        of("etcd_network_client_grpc_sent_bytes_total"),
        of("etcd_mvcc_db_total_size_in_bytes", "etcd_debugging_mvcc_db_total_size_in_bytes"),
    )
