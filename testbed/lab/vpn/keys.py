"""Keys and certificates of one run: made when it starts, kept in the world's private /tmp, never in the run folder.

They do not come from the plan's seed: nothing measured depends on them, and a key anybody can recompute is not one.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import secrets
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = datetime.timedelta(days=3650)  # of either side of now: a world in virtual time has a date of its own
_NOT_BEFORE = datetime.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class WireGuardKey:
    """A Curve25519 pair, each half as 32 raw bytes."""

    private: bytes
    public: bytes

    @classmethod
    def new(cls) -> WireGuardKey:
        key = X25519PrivateKey.generate()
        return cls(key.private_bytes_raw(), key.public_key().public_bytes_raw())

    @property
    def private_base64(self) -> str:
        return base64.b64encode(self.private).decode()

    @property
    def public_base64(self) -> str:
        return base64.b64encode(self.public).decode()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its private key, both PEM (the key PKCS #8, not encrypted). common_name is its subject's."""

    common_name: str
    certificate: str
    key: str


@dataclass(slots=True)
class CertificateAuthority:
    """The run's own authority, P-256: signs server certificates (with addresses) and client certificates."""

    common_name: str = "allowlab run"
    certificate: str = field(init=False)
    _key: ec.EllipticCurvePrivateKey = field(init=False)
    _name: x509.Name = field(init=False)

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(self.common_name)
        builder = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        signed = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.certificate = _pem(signed)

    def server(self, common_name: str, addresses: tuple[str, ...]) -> Certificate:
        """A server's certificate; its alternative names are common_name and the addresses."""
        names = [x509.DNSName(common_name), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
        return self._issue(common_name, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, common_name: str) -> Certificate:
        """A client's certificate; its alternative name is common_name."""
        return self._issue(common_name, [x509.DNSName(common_name)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self, common_name: str, names: list[x509.GeneralName], purpose: x509.ObjectIdentifier
    ) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name), self._name, key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        usage = x509.KeyUsage(True, False, False, False, True, False, False, False, False)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Certificate(common_name, _pem(builder.sign(self._key, hashes.SHA256())), private.decode())


def tls_crypt_key() -> str:
    """An OpenVPN static key file (2048 random bits), as `openvpn --genkey` writes it."""
    text = secrets.token_bytes(256).hex()
    lines = [text[at : at + 32] for at in range(0, len(text), 32)]
    return "\n".join(
        ("-----BEGIN OpenVPN Static key V1-----", *lines, "-----END OpenVPN Static key V1-----", "")
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _NOT_BEFORE)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
