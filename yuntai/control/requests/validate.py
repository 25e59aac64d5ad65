"""Checks of single values by the rules of the ECS API; each error names the field, the value and what is allowed."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re

from yuntai.control import errors

NAME_CHARS_MAX = 128
DESCRIPTION_CHARS_MAX = 256
TAGS_MAX = 20
TAG_CHARS_MAX = 128
USER_DATA_BYTES_MAX = 32 * 1024
DISK_GIB_MIN = 1
DISK_GIB_MAX = 32768
DISK_CATEGORIES = ("cloud_essd", "cloud_ssd", "cloud_efficiency", "cloud")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_NAME = re.compile(r"[^\W\d_][\w:.\-\[\], ]*")
_SPECIAL = set("()`~!@#$%^&*-_+=|{}[]:;'<>,.?/")


def name(field: str, value: str, *, code: str = "InvalidParameter") -> str:
    """Check a resource's name: 2 to 128 characters, a letter first, no http:// or https://."""
    if value and (
        not 2 <= len(value) <= NAME_CHARS_MAX or not _NAME.fullmatch(value) or value.startswith(("http://", "https://"))
    ):
        raise errors.invalid(
            field, value, "use 2 to 128 letters, digits, '.', ':', '_' or '-', a letter first, not http://", code
        )
    return value


def description(field: str, value: str) -> str:
    """Check a description: 2 to 256 characters, no http:// or https:// in front."""
    if value and (not 2 <= len(value) <= DESCRIPTION_CHARS_MAX or value.startswith(("http://", "https://"))):
        raise errors.invalid(
            field, value, "use 2 to 256 characters that do not start with http://", "InvalidDescription.Malformed"
        )
    return value


def tags(value: dict[str, str] | None) -> dict[str, str]:
    """Check tags: at most 20, keys of 1 to 128 characters that are not the system's."""
    given = dict(value or {})
    if len(given) > TAGS_MAX:
        raise errors.quota("QuotaExceed.TagNum", "tags on one resource", TAGS_MAX, 0, len(given))
    for key, text in given.items():
        if not 1 <= len(key) <= TAG_CHARS_MAX or key.startswith(("aliyun", "acs:", "http://", "https://")):
            raise errors.invalid(
                "Tag.N.Key", key, "use 1 to 128 characters that do not start with aliyun, acs: or http://",
                "InvalidTagKey.Malformed",
            )  # fmt: skip
        if len(text) > TAG_CHARS_MAX or text.startswith(("acs:", "http://", "https://")):
            raise errors.invalid(
                "Tag.N.Value", text, "use up to 128 characters that do not start with acs: or http://",
                "InvalidTagValue.Malformed",
            )  # fmt: skip
    return given


def hostname(value: str) -> str:
    """Check a host name of a Linux guest: 2 to 64 letters, digits, '-' and '.'."""
    if value and (not 2 <= len(value) <= 64 or not _HOSTNAME.fullmatch(value) or value.isdigit()):
        raise errors.invalid(
            "HostName", value, "use 2 to 64 letters, digits, '-' and '.', no two '.' or '-' at the ends",
            "InvalidHostName.Malformed",
        )  # fmt: skip
    return value


def user_data(value: str) -> str:
    """Check user data: base64 of at most 32 KiB."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.invalid(
            "UserData", _short(value), "encode it in base64", "InvalidUserData.Base64FormatInvalid"
        ) from error
    if len(raw) > USER_DATA_BYTES_MAX:
        raise errors.invalid(
            "UserData", f"{len(raw)} bytes", f"use at most {USER_DATA_BYTES_MAX} bytes", "InvalidUserData.SizeExceeded"
        )
    return value


def password(value: str) -> str:
    """Check a password: 8 to 30 characters of at least three of the four classes. It is never in the error."""
    classes = (
        any(c.isascii() and c.islower() for c in value),
        any(c.isascii() and c.isupper() for c in value),
        any(c.isascii() and c.isdigit() for c in value),
        any(c in _SPECIAL for c in value),
    )
    known = all((c.isascii() and c.isalnum()) or c in _SPECIAL for c in value)
    if not 8 <= len(value) <= 30 or sum(classes) < 3 or not known:
        raise errors.ApiError(
            "InvalidPassword.Malformed",
            'The specified parameter "Password" is not valid; use 8 to 30 characters of at least three of: lower-case '
            "letters, capitals, digits, and the special characters ()`~!@#$%^&*-_+=|{}[]:;'<>,.?/",
        )
    return value


def cidr(field: str, value: str, *, code: str = "InvalidCidrBlock.Malformed") -> ipaddress.IPv4Network:
    """Return an IPv4 network without host bits."""
    try:
        return ipaddress.IPv4Network(value)
    except ValueError as error:
        raise errors.invalid(
            field, value, f"write it as a network with a mask, such as 192.168.1.0/24 ({error})", code
        ) from error


def disk_size(field: str, value: int) -> int:
    """Check a disk's size in GiB."""
    if not DISK_GIB_MIN <= value <= DISK_GIB_MAX:
        raise errors.invalid(
            field, value, f"use {DISK_GIB_MIN} to {DISK_GIB_MAX} GiB", "InvalidDiskSize.ValueNotSupported"
        )
    return value


def disk_category(field: str, value: str) -> str:
    """Check a disk's category; "" = cloud_essd. All of them are the same disks here."""
    if value and value not in DISK_CATEGORIES:
        raise errors.invalid(
            field, value, f"use one of {', '.join(DISK_CATEGORIES)}", "InvalidDiskCategory.ValueNotSupported"
        )
    return value or DISK_CATEGORIES[0]


def zone(value: str, known: str) -> str:
    """Check a zone; "" = the only one."""
    if value and value != known:
        raise errors.ApiError(
            "InvalidZoneId.NotFound", f'The specified ZoneId "{value}" does not exist; use {known}.', errors.NOT_FOUND
        )
    return known


def _short(value: str) -> str:
    return value if len(value) <= 32 else f"{value[:32]}…"
