"""From a path inside a host of this machine to the path at which the machine sees the same socket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from yuntai.lab.layout import Home, default_home


def local_path(host: str, path: str) -> str:
    """Return where this machine sees ``path`` of a lab host's ``/run``; a real host's path stays as it is."""
    run = Home(default_home()).host(host).run
    if not run.exists() or not path.startswith("/run/"):
        return path
    return str(run / Path(path).relative_to("/run"))


def local_uri(host: str, uri: str) -> str:
    """Return an NBD URI with its socket's path as this machine sees it."""
    parts = urlsplit(uri)
    query = {key: local_path(host, value) if key == "socket" else value for key, value in parse_qsl(parts.query)}
    return urlunsplit(parts._replace(query=urlencode(query, safe="/")))
