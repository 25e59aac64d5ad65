"""Hand-made requests, so that a test can break any part of one. The signers here share no code with the product."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import json
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from tests.functional.sdk.clients import Target

ECS = "2014-05-26"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded

    @property
    def xml(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.body)

    @property
    def code(self) -> tuple[int, str]:
        return self.status, self.json.get("Code", "")


def now(offset_s: float = 0) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=offset_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def enc(text: str) -> str:
    return quote(text, safe="~")


def rpc_params(target: Target, action: str, version: str = ECS, **parameters: str) -> dict[str, str]:
    """Return the parameters of an RPC request without its signature."""
    return {
        "Action": action,
        "Version": version,
        "AccessKeyId": target.access_key_id,
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": uuid.uuid4().hex,
        "Timestamp": now(),
        "RegionId": target.region,
        **parameters,
    }


def rpc_sign(params: dict[str, str], secret: str, method: str) -> dict[str, str]:
    """Return the parameters with their signature."""
    canonical = "&".join(f"{enc(key)}={enc(params[key])}" for key in sorted(params))
    text = f"{method}&{enc('/')}&{enc(canonical)}"
    digest = hmac.new(f"{secret}&".encode(), text.encode(), "sha1").digest()
    return {**params, "Signature": base64.b64encode(digest).decode()}


def send(
    target: Target, method: str, path: str, headers: dict[str, str] | None = None, body: str | bytes = b""
) -> Answer:
    """Send one request and return the answer."""
    parts = urlsplit(target.endpoint)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.request(method, path, body=body or None, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def rpc(target: Target, action: str, method: str = "GET", version: str = ECS, **parameters: str) -> Answer:
    """Send a request with everything in the query, signed with RPC 1.0."""
    signed = rpc_sign(rpc_params(target, action, version, **parameters), target.access_key_secret, method)
    return send(target, method, "/?" + urlencode(signed))


def form(target: Target, action: str, in_query: tuple[str, ...] = (), **parameters: str) -> Answer:
    """Send a POST whose parameters are in the form body, but for those named ``in_query``, as Terraform does."""
    signed = rpc_sign(rpc_params(target, action, **parameters), target.access_key_secret, "POST")
    query = {key: value for key, value in signed.items() if key in in_query}
    rest = {key: value for key, value in signed.items() if key not in in_query}
    content = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    return send(target, "POST", "/?" + urlencode(query) if query else "/", content, urlencode(rest))


def acs3_headers(target: Target, action: str, version: str = ECS) -> dict[str, str]:
    """Return the headers of an ACS3 request without its authorization."""
    return {
        "host": target.host,
        "x-acs-action": action,
        "x-acs-version": version,
        "x-acs-date": now(),
        "x-acs-signature-nonce": uuid.uuid4().hex,
    }


def acs3_authorize(
    target: Target, headers: dict[str, str], query: dict[str, str], body: bytes = b"", method: str = "POST"
) -> dict[str, str]:
    """Return the headers with an authorization that covers all of them."""
    names = sorted(headers)
    canonical_query = "&".join(f"{enc(key)}={enc(query[key])}" for key in sorted(query))
    canonical_headers = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    digest = hashlib.sha256(body).hexdigest()
    canonical = f"{method}\n/\n{canonical_query}\n{canonical_headers}\n{';'.join(names)}\n{digest}"
    text = f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(target.access_key_secret.encode(), text.encode(), "sha256").hexdigest()
    credential = f"Credential={target.access_key_id},SignedHeaders={';'.join(names)},Signature={signature}"
    return {**headers, "Authorization": f"ACS3-HMAC-SHA256 {credential}"}


def acs3(target: Target, action: str, query: dict[str, str] | None = None, version: str = ECS) -> Answer:
    """Send a POST with an empty body and everything in the query, signed with ACS3."""
    query = query or {}
    headers = acs3_authorize(target, acs3_headers(target, action, version), query)
    return send(target, "POST", "/?" + urlencode(query), headers)
