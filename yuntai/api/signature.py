"""Proof that a request comes from the holder of an AccessKey: RPC signature 1.0 and ACS3, checked in constant time.

Both sign a nonce and a time; :mod:`yuntai.api.replay` looks at those once the signature holds. A refusal shows the
text that the server signed, so that a client's author can compare, and never the signature it computed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from yuntai.api.errors import invalid_parameter, missing_parameter
from yuntai.api.wire import WireRequest
from yuntai.control.errors import ApiError

ACS3 = "ACS3-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    r"ACS3-HMAC-SHA256\s+Credential=(?P<key>[^,\s]+),\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<signature>[0-9A-Fa-f]+)"
)
_MUST_SIGN = ("host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce")
"""Headers that ACS3 must cover where they are sent: one that it does not cover could be changed on the way."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about its sender, before anything of it is proved."""

    access_key_id: str
    nonce: str
    timestamp: str
    signature: str
    string_to_sign: str
    detail: str  # the canonical request of ACS3, "" for RPC
    acs3: bool

    def proved_by(self, secret: str) -> bool:
        """Return whether the signature was made with this secret."""
        if self.acs3:
            expected = hmac.new(secret.encode(), self.string_to_sign.encode(), hashlib.sha256).hexdigest()
            return hmac.compare_digest(expected.encode(), self.signature.lower().encode())
        digest = hmac.new(f"{secret}&".encode(), self.string_to_sign.encode(), hashlib.sha1).digest()
        return hmac.compare_digest(base64.b64encode(digest), self.signature.encode())

    def mismatch(self) -> ApiError:
        """Return the refusal of a signature that does not hold."""
        if self.acs3:
            message = (
                "Specified signature does not match our calculation. "
                f"server StringToSign is [{self.string_to_sign}] server CanonicalRequest is [{self.detail}]"
            )
        else:
            message = (
                "Specified signature is not matched with our calculation. "
                f"server string to sign is:{self.string_to_sign}"
            )
        return ApiError("SignatureDoesNotMatch", message)


def percent_encode(text: str) -> str:
    """Encode as RFC 3986 says, with nothing but letters, digits and ``-_.~`` left alone."""
    return quote(text, safe="~")


def rpc_string_to_sign(method: str, params: dict[str, str]) -> str:
    """Return the text that RPC signature 1.0 covers: every parameter but ``Signature``, of query and form."""
    pairs = sorted((key, value) for key, value in params.items() if key != "Signature")
    canonical = "&".join(f"{percent_encode(key)}={percent_encode(value)}" for key, value in pairs)
    return f"{method}&%2F&{percent_encode(canonical)}"


def acs3_canonical_request(request: WireRequest, signed_headers: list[str]) -> str:
    """Return ACS3's canonical request; header values are taken as they came, ``Host`` among them."""
    pairs = sorted(parse_qsl(request.query, keep_blank_values=True))
    query = "&".join(f"{percent_encode(key)}={percent_encode(value)}" for key, value in pairs)
    lines = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in signed_headers)
    body_hash = hashlib.sha256(request.body).hexdigest()
    return "\n".join((request.method, request.path, query, lines, ";".join(signed_headers), body_hash))


def claim_of(request: WireRequest) -> Claim:
    """Read the signature of either scheme; raise :class:`ApiError` when a part of it is missing or unusable."""
    authorization = request.headers.get("Authorization", "")
    return _acs3_claim(request, authorization) if authorization else _rpc_claim(request)


def _rpc_claim(request: WireRequest) -> Claim:
    params = request.params
    # Action and Version too: in a header alone, which this scheme does not cover, they could be changed on the way.
    for name in ("AccessKeyId", "Signature", "SignatureNonce", "Timestamp", "Action", "Version"):
        if not params.get(name):
            raise missing_parameter(name)
    if params.get("SignatureMethod", "HMAC-SHA1").upper() != "HMAC-SHA1":
        raise invalid_parameter("SignatureMethod", "HMAC-SHA1 is the only one for RPC; or use ACS3-HMAC-SHA256")
    if params.get("SignatureVersion", "1.0") != "1.0":
        raise invalid_parameter("SignatureVersion", "1.0 is the only one")
    return Claim(
        access_key_id=params["AccessKeyId"],
        nonce=params["SignatureNonce"],
        timestamp=params["Timestamp"],
        signature=params["Signature"],
        string_to_sign=rpc_string_to_sign(request.method, params),
        detail="",
        acs3=False,
    )


def _acs3_claim(request: WireRequest, authorization: str) -> Claim:
    match = _AUTHORIZATION.fullmatch(authorization.strip())
    if match is None:
        raise ApiError(
            "IncompleteSignature",
            f"The Authorization header is not understood; it is to be: {ACS3} "
            "Credential=<AccessKeyId>,SignedHeaders=<a;b>,Signature=<hex>.",
        )
    signed = match["headers"].lower().split(";")
    uncovered = [name for name in _MUST_SIGN if name in request.headers and name not in signed]
    if uncovered:
        raise ApiError("IncompleteSignature", f"SignedHeaders does not cover {', '.join(uncovered)}.")
    for name in ("x-acs-signature-nonce", "x-acs-date"):
        if not request.headers.get(name):
            raise missing_parameter(name)
    canonical = acs3_canonical_request(request, signed)
    return Claim(
        access_key_id=match["key"],
        nonce=request.headers["x-acs-signature-nonce"],
        timestamp=request.headers["x-acs-date"],
        signature=match["signature"],
        string_to_sign=f"{ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}",
        detail=canonical,
        acs3=True,
    )
