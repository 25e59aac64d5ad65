"""``python -m yuntai.pangu``: a master of the block store. Several may run; one leads."""

from __future__ import annotations

import asyncio
import sys

from yuntai import log, process
from yuntai.config import Config, ConfigError, load
from yuntai.pangu.master import Master
from yuntai.pangu.register import RegistrationError, register
from yuntai.state import EtcdStore, StateError

REGISTER_RETRY_S = 2.0

_log = log.get("main")


async def _register_own(store: EtcdStore, config: Config) -> None:
    """Register what this host runs, when its agent has not done so; keep trying while etcd is away."""
    while True:
        try:
            await register(store, config)
        except StateError as error:
            _log.info("waiting for etcd", error=str(error))
        except RegistrationError as error:
            _log.error("cannot register this host", error=str(error))
            return
        else:
            return
        await asyncio.sleep(REGISTER_RETRY_S)


async def serve(config: Config) -> None:
    """Run a master until a signal asks it to stop."""
    stop = process.told_to_stop()
    async with EtcdStore(config.etcd) as store:
        master = Master(
            store,
            host=config.host,
            url=f"{'https' if config.tls else 'http'}://{config.address}:{config.master_port}",
            cluster_secret=config.secret("cluster"),
            token_secret=config.secret("token"),
            files=config.tls,
        )
        async with master.listening(config.address, config.master_port):
            tasks = [asyncio.create_task(_register_own(store, config)), asyncio.create_task(master.run())]
            _log.info("master listens", address=config.address, port=config.master_port)
            await stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Read the configuration and serve; return the exit status."""
    log.setup("master")
    try:
        asyncio.run(serve(load()))
    except (ConfigError, OSError) as error:
        _log.error("the master cannot start", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
