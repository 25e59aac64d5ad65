"""``python -m yuntai.metadata``: the metadata service of this host as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai import process
from yuntai.metadata.service import Service
from yuntai.state import EtcdStore

if TYPE_CHECKING:
    from yuntai.config import Config


async def serve(config: Config) -> None:
    """Serve until cancelled."""
    async with EtcdStore(config.etcd) as store:
        await Service(config, store).run()


if __name__ == "__main__":
    process.main("metadata", serve, secrets=("cluster",))
