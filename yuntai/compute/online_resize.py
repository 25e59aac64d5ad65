"""Lets a running guest see that its disk has grown, through QEMU's monitor.

QEMU refuses to grow an NBD node beyond the size that it learned when it connected, and it connects again only when a
request finds the connection gone. So the gateway lets its clients go, one block is read to have QEMU come back, and
then the node is told its size, which the guest's driver hears of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yuntai.compute.driver import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Callable

    Qmp = Callable[[str, dict[str, Any]], Any]
    """Carry out one command of QEMU's monitor and return what it returns."""


def find(qmp: Qmp, export: str) -> dict[str, Any]:
    """Return QEMU's entry for the disk that shows an NBD export."""
    for entry in qmp("query-block", {}):
        inserted = entry.get("inserted")
        if inserted and f"/{export}" in str(inserted.get("file", "")) and entry.get("qdev"):
            return dict(entry)
    raise HypervisorError(f"the guest has no disk that shows the export {export}")


def size_of(entry: dict[str, Any]) -> int:
    """Return the size that the guest is shown now."""
    return int(entry["inserted"]["image"]["virtual-size"])


def come_back(qmp: Qmp, entry: dict[str, Any]) -> None:
    """Have QEMU read a block of the disk, which makes it connect again if its connection is gone.

    What the command says goes to QEMU's own output; whether it helped is seen when the node is told its size.
    """
    qmp("human-monitor-command", {"command-line": f'qemu-io -d {entry["qdev"]} "read 0 512"'})


def grow(qmp: Qmp, export: str, size_bytes: int) -> None:
    """Show the guest the disk's new size. The gateway has let its clients go before."""
    entry = find(qmp, export)
    if size_of(entry) >= size_bytes:
        return
    come_back(qmp, entry)
    qmp("block_resize", {"node-name": entry["inserted"]["node-name"], "size": size_bytes})
