"""tls-alpn-01: a certificate shown to whoever asks for ``acme-tls/1`` (RFC 8737; RFC 8738 section 6)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import ssl
import warnings

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from certloom.outbound.fetch import NotConnected
from certloom.validation.proof import Proof, ValidationFailed, ValidationRecord, excerpt
from certloom.validation.reach import Reach

PROTOCOL = "acme-tls/1"
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTET_STRING_32 = b"\x04\x20"


class TLSALPN01:
    """Checks tls-alpn-01 challenges. ``port`` is asked in place of 443."""

    def __init__(self, reach: Reach, *, port: int = 443) -> None:
        self._reach = reach
        self._port = port
        self._context: ssl.SSLContext | None = None

    async def check(self, proof: Proof, deadline: float) -> tuple[ValidationRecord, ...]:
        """The connection made. ``deadline`` is a loop time. Raises ``ValidationFailed``."""
        if proof.is_wildcard:
            raise ValidationFailed("malformed", "tls-alpn-01 cannot prove a wildcard name (RFC 8737)")
        host = proof.base_name
        server_name = ipaddress.ip_address(host).reverse_pointer if proof.is_ip else host

        async def talk(address: str, connect_by: float) -> tuple[str | None, bytes]:
            return await _handshake(address, self._port, self._tls(), server_name, connect_by)

        try:
            reached = await self._reach.connect(host, self._port, deadline, talk)
        except _HandshakeFailed as failure:
            raise ValidationFailed("tls", f"{host} port {self._port}: {failure}") from failure
        where = f"{host} at {reached.address} port {self._port}"
        protocol, certificate = reached.got
        if protocol != PROTOCOL:
            raise ValidationFailed(
                "incorrectResponse", f"{where} did not agree on the application protocol {PROTOCOL}"
            )
        problem = _judge(certificate, proof)
        if problem:
            raise ValidationFailed("incorrectResponse", f"{where}: {problem}")
        return (ValidationRecord(host, "", self._port, reached.resolved, reached.address),)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # The certificate is the message here, made for this one handshake; _judge reads it.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols([PROTOCOL])
            self._context = context
        return self._context


class _HandshakeFailed(Exception):
    pass


async def _handshake(
    address: str, port: int, context: ssl.SSLContext, server_name: str, connect_by: float
) -> tuple[str | None, bytes]:
    """The application protocol agreed on and the certificate shown; the connection is closed at once, as RFC
    8737 section 3 wants. Raises ``NotConnected``, ``_HandshakeFailed``."""
    loop = asyncio.get_running_loop()
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout_at(connect_by):
            transport, _ = await loop.create_connection(
                asyncio.Protocol, address, port, ssl=context, server_hostname=server_name
            )
        session: ssl.SSLObject = transport.get_extra_info("ssl_object")
        return session.selected_alpn_protocol(), session.getpeercert(binary_form=True) or b""
    except TimeoutError:
        raise NotConnected("no TLS connection in time") from None
    except ssl.SSLError as error:
        raise _HandshakeFailed(f"TLS handshake failed: {error.reason or 'protocol error'}") from None
    except ConnectionResetError:
        raise _HandshakeFailed("the connection was closed during the TLS handshake") from None
    except OSError as error:
        raise NotConnected(error.strerror or str(error)) from None
    finally:
        if transport is not None:
            transport.abort()


def _judge(der: bytes, proof: Proof) -> str:
    """What is wrong with the certificate (RFC 8737 section 3), or an empty string."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            extensions = x509.load_der_x509_certificate(der).extensions
            names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
            found = extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except x509.ExtensionNotFound as missing:
        which = "acmeIdentifier" if missing.oid == ACME_IDENTIFIER else "subjectAltName"
        return f"the certificate has no {which} extension"
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return "the certificate is malformed"
    if len(names) != 1:
        return f"the certificate has {len(names)} subjectAltNames, expected exactly one"
    if not _same(names[0], proof):
        return f"the certificate is for {excerpt(str(names[0].value))}"
    if not found.critical:
        return "the acmeIdentifier extension is not critical"
    assert isinstance(found.value, x509.UnrecognizedExtension)
    expected = _OCTET_STRING_32 + hashlib.sha256(proof.key_authorization.encode()).digest()
    if not hmac.compare_digest(found.value.value, expected):
        return "the acmeIdentifier extension does not hold the digest of the key authorization"
    return ""


def _same(name: x509.GeneralName, proof: Proof) -> bool:
    if proof.is_ip:
        return isinstance(name, x509.IPAddress) and name.value == ipaddress.ip_address(proof.base_name)
    return isinstance(name, x509.DNSName) and name.value.lower() == proof.base_name.lower()
