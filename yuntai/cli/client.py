"""A small client of the API: ACS3 signature, JSON answers, standard library only.

The signature is that of Alibaba Cloud's V3 scheme (ACS3-HMAC-SHA256): the same that the official SDKs send.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import http.client
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from yuntai.lab.layout import default_home

ECS, VPC, YUNTAI = "2014-05-26", "2016-04-28", "2026-11-23"
TIMEOUT_S = 60.0
PAGE_SIZE = 100
PAGES_MAX = 1000
TRIES_MAX = 3
AGAIN_PAUSE_S = 0.5
_ALGORITHM = "ACS3-HMAC-SHA256"


class CliError(Exception):
    """Something that the user is told in one sentence; ``code`` is the exit code."""

    code = 1


class UnreachableError(CliError):
    """The API does not answer."""

    code = 3


class ApiRefusedError(CliError):
    """The API said no."""

    def __init__(self, error_code: str, message: str, request_id: str, status: int) -> None:
        super().__init__(f"{message} ({error_code})")
        self.error_code = error_code
        self.request_id = request_id
        self.status = status


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API is and who calls."""

    endpoint: str
    access_key_id: str
    access_key_secret: str
    region: str = "cn-local"


def credentials_path() -> Path:
    """Return where ``make up`` left the credentials."""
    return default_home() / "credentials.json"


def load_credentials() -> Credentials:
    """Read the credentials; raise :class:`CliError` where they are missing or unreadable."""
    path = credentials_path()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except OSError as error:
        raise CliError(
            f"there are no credentials in {path}: {error.strerror}; "
            "run `make up`, or name the data folder in YUNTAI_HOME"
        ) from error
    except msgspec.DecodeError as error:
        raise CliError(f"the credentials in {path} cannot be read: {error}; `make up` writes them anew") from error


def flatten(params: dict[str, Any]) -> dict[str, str]:
    """Return parameters as the wire has them: ``Foo.1``, ``Foo.1.Bar``; None and "" are left out."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": text for inner, text in flatten(value).items()}
        elif isinstance(value, list | tuple):
            flat |= flatten({f"{key}.{number}": item for number, item in enumerate(value, 1)})
        elif isinstance(value, bool):
            flat[key] = "true" if value else "false"
        elif value is not None and value != "":
            flat[key] = str(value)
    return flat


def _encode(text: str) -> str:
    return quote(text, safe="~")


def _query(params: dict[str, str]) -> str:
    return "&".join(f"{_encode(key)}={_encode(value)}" for key, value in sorted(params.items()))


class Api:
    """Calls to the API with one AccessKey. One connection for each call: a command makes few of them."""

    def __init__(self, credentials: Credentials | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.credentials = credentials or load_credentials()
        self._timeout_s = timeout_s

    def call(self, version: str, action: str, **params: Any) -> dict[str, Any]:
        """Call one action and return its answer.

        A call that is cut off before its answer is made again where that changes nothing: a question, or one with a
        ClientToken. Raises :class:`ApiRefusedError` with the API's code and words, :class:`UnreachableError` if nothing
        answers.
        """
        repeatable = action.startswith(("Describe", "List", "Get")) or "ClientToken" in params
        for _ in range(TRIES_MAX - 1 if repeatable else 0):
            try:
                return self._call(version, action, params)
            except ConnectionResetError:
                # An API host has failed: whoever waited for it is cut off, and another takes the next call.
                time.sleep(AGAIN_PAUSE_S)
        try:
            return self._call(version, action, params)
        except ConnectionResetError as error:
            unknown = (
                "" if repeatable else f"; whether {action} was carried out is not known: look before you ask again"
            )
            raise self._unreachable(error, unknown) from error

    def _call(self, version: str, action: str, params: dict[str, Any]) -> dict[str, Any]:
        """Call once; a connection that is cut off before the answer is the caller's to judge."""
        query = _query({"RegionId": self.credentials.region} | flatten(params))
        host = urlsplit(self.credentials.endpoint).netloc
        connection = http.client.HTTPConnection(host, timeout=self._timeout_s)
        try:
            connection.request("POST", f"/?{query}", b"", self._headers(host, version, action, query))
            response = connection.getresponse()
            status, body = response.status, response.read()
        except ConnectionResetError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        return _decoded(status, body)

    def _unreachable(self, error: Exception, more: str = "") -> UnreachableError:
        way_out = "`yuntai status` shows what is wrong, `make up` repairs it"
        return UnreachableError(f"the API at {self.credentials.endpoint} does not answer: {error}{more}; {way_out}")

    def _headers(self, host: str, version: str, action: str, query: str) -> dict[str, str]:
        body_hash = hashlib.sha256(b"").hexdigest()
        headers = {
            "accept": "application/json",
            "host": host,
            "x-acs-action": action,
            "x-acs-content-sha256": body_hash,
            "x-acs-date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-version": version,
        }
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = "\n".join(("POST", "/", query, lines, names, body_hash))
        to_sign = f"{_ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = self.credentials.access_key_secret.encode()
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        key_id = self.credentials.access_key_id
        headers["authorization"] = f"{_ALGORITHM} Credential={key_id},SignedHeaders={names},Signature={signature}"
        return headers

    def ecs(self, action: str, **params: Any) -> dict[str, Any]:
        """Call an action of ECS."""
        return self.call(ECS, action, **params)

    def vpc(self, action: str, **params: Any) -> dict[str, Any]:
        """Call an action of VPC."""
        return self.call(VPC, action, **params)

    def operator(self, action: str, **params: Any) -> dict[str, Any]:
        """Call an action of the operator's own product."""
        return self.call(YUNTAI, action, **params)

    def every(self, version: str, action: str, wrapper: str, item: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield every row of a paged list, page by page."""
        for page in range(1, PAGES_MAX + 1):
            answer = self.call(version, action, PageNumber=page, PageSize=PAGE_SIZE, **params)
            rows = answer[wrapper][item]
            yield from rows
            if len(rows) < PAGE_SIZE:
                return


def _decoded(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise UnreachableError(f"what answers is not the API: HTTP {status}, {body[:80]!r}") from error
    if status >= 400 or "Code" in answer:
        raise ApiRefusedError(
            str(answer.get("Code", status)), str(answer.get("Message", "")), str(answer.get("RequestId", "")), status
        )
    return answer
