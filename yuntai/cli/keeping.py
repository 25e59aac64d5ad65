"""Auxiliary volumes that a command works on: kept while it lives, deleted by the block store when it was killed."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from yuntai.cli.client import CliError
from yuntai.cli.output import err
from yuntai.pangu.auxiliary import KEEP_EVERY_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.cli.client import Api


@contextmanager
def kept(api: Api, volume_id: str) -> Iterator[None]:
    """While inside, say again and again that the volume is still needed."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(KEEP_EVERY_S):
            try:
                api.operator("KeepVolume", VolumeId=volume_id)
            except CliError as error:
                err.print(f"could not ask to keep volume {volume_id}: {error}")

    thread = threading.Thread(target=keep, name=f"keep {volume_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
