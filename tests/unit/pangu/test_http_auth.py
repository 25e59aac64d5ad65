"""A request to a master proves its sender, once, to one master."""

from __future__ import annotations

import pytest

from yuntai.pangu import http_auth
from yuntai.pangu.errors import Denied, Unavailable
from yuntai.pangu.http_auth import DATE_HEADER, NONCE_HEADER, Guard, sign

SECRET = b"s" * 32
HOST = "10.0.0.1:7300"
WHAT = ("POST", "/v1/volumes/x/rollback", b"{}")


def signed(secret: bytes = SECRET, host: str = HOST) -> dict[str, str]:
    return {**sign(secret, *WHAT, host=host), "Host": HOST}


def test_a_request_is_taken_once() -> None:
    guard, headers = Guard(SECRET), signed()
    guard.check(*WHAT, headers)
    with pytest.raises(Denied, match="used before"):
        guard.check(*WHAT, headers)
    guard.check(*WHAT, signed())


@pytest.mark.parametrize(
    ("what", "headers"),
    [
        (WHAT, {}),
        (WHAT, signed(b"x" * 32)),
        (WHAT, signed(host="10.0.0.2:7300")),
        (("DELETE", *WHAT[1:]), signed()),
        ((WHAT[0], "/v1/volumes/y/rollback", WHAT[2]), signed()),
        ((*WHAT[:2], b'{"node": 1}'), signed()),
        (WHAT, {**signed(), NONCE_HEADER: "another"}),
        (WHAT, {**signed(), DATE_HEADER: "1800000000"}),
        (WHAT, {**signed(), "Host": "10.0.0.2:7300"}),
    ],
)
def test_what_was_not_signed_is_refused(what: tuple[str, str, bytes], headers: dict[str, str]) -> None:
    with pytest.raises(Denied, match="does not prove"):
        Guard(SECRET).check(*what, headers)


def test_what_was_said_before_the_start_or_long_ago_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(http_auth.time, "time", lambda: clock[0])
    early = signed()
    clock[0] += 1
    guard = Guard(SECRET)
    with pytest.raises(Unavailable, match="sign it again"):
        guard.check(*WHAT, early)
    late = signed()
    guard.check(*WHAT, late)
    for step_s in (299, 302, 400):
        clock[0] = 1001.0 + step_s
        with pytest.raises(Denied):
            guard.check(*WHAT, late)
    # By now its number is forgotten, and its age alone refuses it.
    guard.check(*WHAT, signed())
    clock[0] += 601
    guard.check(*WHAT, signed())
    assert len(guard._seen) == 1


@pytest.mark.parametrize("date", ["", "nan", "inf", "-1", "1e9", "١٢٣", "9" * 30, "1.2.3"])
def test_a_date_that_is_none_is_refused(date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_auth, "_mac", lambda *_: "right")
    with pytest.raises(Denied, match="set the clocks"):
        Guard(SECRET).check(*WHAT, {DATE_HEADER: date, NONCE_HEADER: "n", http_auth.AUTH_HEADER: "right"})
