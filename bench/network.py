"""The ``network`` figure: how soon a security-group rule acts, and what the virtual switch costs beside a bridge.

It makes a cloud of two engine-only hosts of its own, with namespaces as guests, so it runs beside a running cloud. The
peer is the kernel's bridge between two namespaces, with the same offloads off: what a packet costs with no network
virtualisation at all. The switch here is OVS's userspace datapath, which needs no kernel module.
"""

from __future__ import annotations

import asyncio
import functools
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import CannotMeasure, Figure, Foreign, Options
from tests.functional import network_scripts as scripts
from tests.functional.network_site import ALLOW_ALL, Site
from yuntai.lab.layout import Home

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.model.network import SecurityGroup

NAME = "network"
PINGS = 200
STREAM_PORT = 9000
_RTT = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/")
_SINK = f"""
import socket
listener = socket.create_server(("", {STREAM_PORT}))
while True:
    connection, _ = listener.accept()
    while connection.recv(1 << 20):
        pass
"""
_SOURCE = """
import socket, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
data, sent = bytes(1 << 18), 0
with socket.create_connection((address, port), 5) as stream:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        sent += stream.send(data)
    print(sent * 8 / (time.monotonic() - began) / 1e6)
"""


async def run(options: Options) -> Figure:
    """Take the figure."""
    if not Home(options.home).image.exists():
        raise CannotMeasure(f"there is no host image in {options.home}; run: make up")
    return await asyncio.to_thread(_run, options)


def _run(options: Options) -> Figure:
    figure = Figure(
        NAME,
        f"medians of {options.repeat}; guests are namespaces, MTU 1400",
        ("what", "median", "worst", "unit", "busy cores"),
    )
    site = Site.start(Path(tempfile.mkdtemp(prefix="ytbench")), hosts=2)
    try:
        vswitch = site.vswitch(site.vpc("10.1.0.0/16", 20), "10.1.1.0/24")
        vpc = site.vpcs[vswitch.vpc]
        rules, group = site.group(vpc, inner="Drop"), site.group(vpc, ALLOW_ALL)
        client = site.guest(vswitch, "10.1.1.10", group)
        server = site.guest(vswitch, "10.1.1.11", rules)
        near = site.guest(vswitch, "10.1.1.12", group)
        far = site.guest(vswitch, "10.1.1.13", group, host=site.hosts[1])
        _rules(figure, options, site, rules, client, server)
        for guest in (near, far):
            guest.host.ask("spawn", command=["ip", "netns", "exec", guest.netns, "python3", "-c", _SINK])
            site.until(functools.partial(client.pings, guest.port.ip), "a first ping")
        _paths(figure, options, "OVN, same host", client.run, near.port.ip)
        _paths(figure, options, "OVN, two hosts, Geneve", client.run, far.port.ip)
        _bridge(figure, options, site)
    finally:
        site.stop()
    return figure


def _rules(figure: Figure, options: Options, site: Site, group: SecurityGroup, client: Any, server: Any) -> None:
    """Measure from the write of a rule to etcd to its effect on an open connection's next packet."""
    site.ask("spawn", command=["ip", "netns", "exec", server.netns, "python3", "-c", scripts.ECHO])
    site.run("sh", "-c", f"cat > /tmp/talk.py <<'E'\n{scripts.TALK}E")
    talk = f"exec ip netns exec {client.netns} python3 /tmp/talk.py > /tmp/talk.out"
    site.ask("spawn", command=["sh", "-c", talk])

    def lines() -> list[str]:
        text: str = site.run("cat", "/tmp/talk.out")["out"]  # noqa: S108 — inside the host
        return text.splitlines()

    def longer(than: int) -> bool:
        return len(lines()) > than

    times: dict[str, list[float]] = {"answers": [], "silent": []}
    foreign = Foreign()
    for _ in range(max(5, options.repeat)):
        for word, chosen in (("answers", (ALLOW_ALL,)), ("silent", ())):
            known, written_s = lines(), time.time()
            site.set_rules(group, *chosen)
            site.until(functools.partial(longer, len(known)), f"the connection {word}")
            times[word].append((float(lines()[len(known)].split()[1]) - written_s) * 1000)
            time.sleep(0.2)
    others = foreign.cores()
    figure.rows.append(("rule revoked: open connection cut", *_spread(times["silent"]), "ms", others))
    figure.rows.append(("rule added: next try succeeds", *_spread(times["answers"]), "ms", others))
    figure.notes.append("a try that meets the old rule is repeated after 50 ms, which is part of 'added'")
    figure.notes.append("busy cores are all but this program's: the switches' own work and everybody else's")
    figure.raw["rules_ms"] = times


def _paths(figure: Figure, options: Options, name: str, run: Callable[..., dict[str, Any]], address: str) -> None:
    foreign = Foreign()
    averages, rates = [], []
    for _ in range(options.repeat):
        pings = run("ping", "-q", "-n", "-i", "0.002", "-c", str(PINGS), address)
        found = _RTT.search(pings["out"])
        if found is None:
            raise CannotMeasure(f"{name}: no answer from {address}: {pings['out']}")
        averages.append(float(found.group(2)))
        stream = run(
            *("python3", "-c", _SOURCE, address, str(STREAM_PORT), str(options.seconds)), timeout_s=options.seconds + 20
        )
        if stream["code"] != 0:
            raise CannotMeasure(f"{name}: the stream failed: {stream['err'][-300:]}")
        rates.append(float(stream["out"]))
    others = foreign.cores()
    figure.rows.append((f"{name}: round trip", statistics.median(averages), max(averages), "ms", others))
    figure.rows.append((f"{name}: one TCP stream", statistics.median(rates), min(rates), "Mb/s", others))
    figure.raw[name] = {"rtt_ms": averages, "mb_s": rates}


def _bridge(figure: Figure, options: Options, site: Site) -> None:
    """Join two namespaces of the first host by the kernel's bridge, and measure the same."""
    site.ask("bridge", netns=["bench-a", "bench-b"], addresses=["192.0.2.1/24", "192.0.2.2/24"])
    site.ask("spawn", command=["ip", "netns", "exec", "bench-b", "python3", "-c", _SINK])
    time.sleep(0.5)

    def inside(*command: str, timeout_s: float = 20) -> dict[str, Any]:
        return site.run("ip", "netns", "exec", "bench-a", *command, timeout_s=timeout_s)

    _paths(figure, options, "kernel bridge, no offloads", inside, "192.0.2.2")


def _spread(values: list[float]) -> tuple[float, float]:
    return statistics.median(values), max(values)
