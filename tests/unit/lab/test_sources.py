from __future__ import annotations

import pytest

from yuntai.lab.setup.sources import (
    DEBIAN_KEYRING,
    Mirror,
    Source,
    SourcesError,
    choose_mirror,
    lines_for,
    parse_deb822,
    parse_one_line,
)

DEB822 = """\
# the main archive
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb [arch=amd64 signed-by=/etc/keys/own.gpg trusted=yes] https://own.example/debian bookworm main contrib # ours
deb http://own.example/security bookworm-security main
"""


def test_deb822_stanzas_are_read_with_their_options_and_disabled_ones_left_out() -> None:
    found = parse_deb822(DEB822)
    assert [source.uri for source in found] == [
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    ]
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert found[0].components == ("main", "contrib")
    assert found[0].options == {"signed-by": DEBIAN_KEYRING}
    assert "BEGIN PGP" in found[1].options["signed-by"]


def test_one_line_sources_are_read_with_options_and_comments() -> None:
    found = parse_one_line(ONE_LINE)
    own = found[1]
    assert own.uri == "https://own.example/debian"
    assert own.components == ("main", "contrib")
    assert own.options == {"arch": "amd64", "signed-by": "/etc/keys/own.gpg", "trusted": "yes"}
    assert all("commented" not in source.uri and "source.example" not in source.uri for source in found)


def test_the_mirror_is_the_first_that_can_be_fetched_from() -> None:
    mirror = choose_mirror(parse_one_line(ONE_LINE), "bookworm")
    assert mirror.archive.uri == "https://own.example/debian"
    assert mirror.security is not None
    assert mirror.security.uri == "http://own.example/security"


def test_a_machine_without_security_source_gets_none() -> None:
    mirror = choose_mirror([Source("http://a.example/debian", ("trixie",), ("main",))], "trixie")
    assert mirror.security is None
    assert len(lines_for(mirror, "trixie")) == 2


def test_a_machine_without_its_release_is_told_what_to_add() -> None:
    with pytest.raises(SourcesError, match="no source for Debian trixie main; add one"):
        choose_mirror(parse_deb822(DEB822), "trixie")


def test_debian_keys_become_those_of_all_releases_and_own_keys_stay() -> None:
    own = Source("http://own.example/d", ("bookworm",), ("main",), {"signed-by": "/etc/keys/own.gpg", "trusted": "yes"})
    one = Source(
        "http://one.example/d",
        ("bookworm-security",),
        ("main",),
        {"signed-by": "/usr/share/keyrings/debian-archive-bookworm-security-automatic.gpg"},
    )
    assert lines_for(Mirror(own, one), "trixie") == [
        "deb [signed-by=/etc/keys/own.gpg trusted=yes] http://own.example/d trixie main",
        "deb [signed-by=/etc/keys/own.gpg trusted=yes] http://own.example/d trixie-updates main",
        f"deb [signed-by={DEBIAN_KEYRING}] http://one.example/d trixie-security main",
    ]


def test_a_key_written_out_in_the_source_falls_back_to_debians() -> None:
    mirror = choose_mirror(parse_deb822(DEB822), "bookworm")
    assert lines_for(mirror, "trixie")[2] == (
        f"deb [signed-by={DEBIAN_KEYRING}] http://mirror.example/debian-security trixie-security main"
    )
