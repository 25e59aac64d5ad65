"""TLS between hosts, where the configuration asks for it, and the certificates that it needs.

Every host has a certificate from the cluster's own authority, and lets in only who has one too. All certificates carry
one name: which process speaks, the proof of the cluster's secret behind it says. The Rust side is ``crates/tls``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from yuntai.config import Tls

NAME = "yuntai.internal"
AUTHORITY_DAYS, HOST_DAYS = 3650, 825
CA, CA_KEY = "ca.pem", "ca-key.pem"


def client_context(files: Tls) -> ssl.SSLContext:
    """Return what a client connects with; pass :data:`NAME` as the server's name."""
    return _ready(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def server_context(files: Tls) -> ssl.SSLContext:
    """Return what a server accepts with: a peer without a certificate of the cluster is refused."""
    context = _ready(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _ready(context: ssl.SSLContext, files: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def make_authority(folder: Path) -> None:
    """Make the cluster's authority in ``folder`` (``ca.pem``, ``ca-key.pem``), if there is none."""
    if (folder / CA).exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Yuntai cluster authority")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_private(folder / CA_KEY, _pem(key))
    (folder / CA).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def issue(folder: Path, host: str) -> tuple[Path, Path]:
    """Issue a host's certificate with the authority in ``folder``; return the paths of certificate and key."""
    authority = x509.load_pem_x509_certificate((folder / CA).read_bytes())
    authority_key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{folder / CA_KEY} is not the key that `make_authority` makes")  # noqa: TRY004
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(name, authority.subject, key.public_key(), HOST_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    paths = folder / f"{host}.pem", folder / f"{host}-key.pem"
    _write_private(paths[1], _pem(key))
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=10))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)


def derived_identity(secret: bytes, purpose: str) -> tuple[bytes, bytes]:
    """Return a self-signed certificate (DER) and its key (PEM) that follow from the cluster's secret.

    Every host that has the secret makes the same ones, to the byte, at every start. So a fingerprint given away
    once fits all of them, and there is no file to be kept. Ed25519 signs without chance; the dates are fixed.
    """
    seed = HKDF(hashes.SHA256(), 32, salt=None, info=f"yuntai {purpose} v1".encode()).derive(secret)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Yuntai {purpose}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2126, 1, 1, tzinfo=dt.UTC))
        .sign(key, None)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.DER), pem


def derived_context(secret: bytes, purpose: str) -> ssl.SSLContext:
    """Return what a server accepts with under :func:`derived_identity`; clients pin its fingerprint."""
    der, key = derived_identity(secret, purpose)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # OpenSSL takes them from files only; the folder is this process's own and gone at once.
    with tempfile.TemporaryDirectory() as folder:
        cert_file, key_file = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        cert_file.write_text(ssl.DER_cert_to_PEM_cert(der))
        key_file.touch(mode=0o600)
        key_file.write_bytes(key)
        context.load_cert_chain(cert_file, key_file)
    return context


def fingerprint(der: bytes) -> bytes:
    """Return what a certificate is pinned by."""
    return hashlib.sha256(der).digest()
