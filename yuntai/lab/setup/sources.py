"""The machine's own package sources, read from apt's files in both forms; the project names no mirror."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

LIST_FILE = Path("/etc/apt/sources.list")
PARTS_FOLDER = Path("/etc/apt/sources.list.d")
# Holds the keys of every release, so that one release can make another's root file system.
DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DEBIAN_KEYS = re.compile(r"/usr/share/keyrings/debian-archive-[a-z-]+\.(gpg|pgp)")
_SCHEMES = ("http://", "https://", "file:", "copy:")


class SourcesError(Exception):
    """No usable package source; the text says what to add."""


@dataclass(frozen=True)
class Source:
    """One place that packages come from."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mirror:
    """The machine's place for Debian itself, and the one for its security updates where it has one."""

    archive: Source
    security: Source | None


def parse_one_line(text: str) -> list[Source]:
    """Parse ``deb [options] URI SUITE COMPONENT…`` lines."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)([^#]*)", line)
        if match:
            given = dict(pair.split("=", 1) for pair in shlex.split(match[1] or "") if "=" in pair)
            options = {key.lower(): value for key, value in given.items()}
            found.append(Source(match[2], (match[3],), tuple(match[4].split()), options))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Parse stanzas of ``Types:``, ``URIs:``, ``Suites:``, ``Components:`` and options."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        options: dict[str, str] = {key: fields[key] for key in ("signed-by", "trusted") if key in fields}
        suites, components = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
        found += [Source(uri, suites, components, options) for uri in fields.get("uris", "").split()]
    return found


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and last:
            fields[last] += "\n" + line.strip()
        elif ":" in line:
            last, _, value = line.partition(":")
            last = last.strip().lower()
            fields[last] = value.strip()
    return fields


def read_machine() -> list[Source]:
    """Return the sources of this machine, in apt's order."""
    found = parse_one_line(LIST_FILE.read_text()) if LIST_FILE.exists() else []
    for path in sorted(PARTS_FOLDER.iterdir()) if PARTS_FOLDER.is_dir() else []:
        if path.suffix == ".list":
            found += parse_one_line(path.read_text())
        elif path.suffix == ".sources":
            found += parse_deb822(path.read_text())
    return found


def choose_mirror(sources: list[Source], codename: str) -> Mirror:
    """Return where the machine gets Debian ``codename`` from; raise :class:`SourcesError` where it says nothing."""

    def first(suite: str) -> Source | None:
        for source in sources:
            if suite in source.suites and "main" in source.components and source.uri.startswith(_SCHEMES):
                return source
        return None

    archive = first(codename)
    if archive is None:
        raise SourcesError(f"apt has no source for Debian {codename} main; add one in {PARTS_FOLDER}/debian.sources")
    return Mirror(archive, first(f"{codename}-security"))


def lines_for(mirror: Mirror, suite: str) -> list[str]:
    """Return the source lines for another release ``suite`` from the same places."""
    lines = [_line(mirror.archive, suite), _line(mirror.archive, f"{suite}-updates")]
    if mirror.security is not None:
        lines.append(_line(mirror.security, f"{suite}-security"))
    return lines


def _line(source: Source, suite: str) -> str:
    options = {}
    signed_by = source.options.get("signed-by", DEBIAN_KEYRING)
    # A key block written out in the source has no path that could be passed on; apt's own key ring then serves.
    options["signed-by"] = DEBIAN_KEYRING if _DEBIAN_KEYS.fullmatch(signed_by) or "\n" in signed_by else signed_by
    if "trusted" in source.options:
        options["trusted"] = source.options["trusted"]
    text = " ".join(f"{key}={value}" for key, value in options.items())
    return f"deb [{text}] {source.uri} {suite} main"
