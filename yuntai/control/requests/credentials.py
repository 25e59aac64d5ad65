"""What lets a user into a guest: password hashes and SSH keys. Clear passwords and private keys are never stored."""

from __future__ import annotations

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from passlib.hash import sha512_crypt

from yuntai.control import errors

RSA_BITS = 2048
PUBLIC_KEY_CHARS_MAX = 8192
_KINDS = ("ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
HASH_ROUNDS = 20_000
"""Four times the default of crypt(3); every guest's login reads the number from the hash."""


def hash_password(password: str) -> str:
    """Return a password as crypt(3) SHA-512, the form that goes into a guest's /etc/shadow. Takes 20 ms or more."""
    return str(sha512_crypt.using(rounds=HASH_ROUNDS).hash(password))  # type: ignore[no-untyped-call]


def new_key() -> tuple[str, str]:
    """Return a new key as (private in PEM, public in one line of OpenSSH). Takes 50 ms or more."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def check_public_key(text: str) -> str:
    """Return one line of an OpenSSH public key, or raise InvalidKeyPair.Malformed."""
    line = " ".join(text.split())
    kind = line.split(" ", 1)[0]
    way_out = f"give one line of an OpenSSH public key of {', '.join(_KINDS)}"
    if kind not in _KINDS or len(line) > PUBLIC_KEY_CHARS_MAX:
        raise errors.invalid("PublicKeyBody", kind[:32], way_out, "InvalidPublicKeyBody.Malformed")
    try:
        serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise errors.invalid("PublicKeyBody", kind, way_out, "InvalidPublicKeyBody.Malformed") from error
    return line


def fingerprint(public_key: str) -> str:
    """Return the MD5 of the key's bytes in hexadecimal digits, the form that ECS shows."""
    raw = base64.b64decode(public_key.split(" ")[1])
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()
