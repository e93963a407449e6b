"""An OCSP responder over a test's store, and answers read with another library's eyes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc6960

from certloom.authorities.local import LocalBody
from certloom.clock import Clock
from certloom.pki import ocsp
from certloom.pki.certificates import issuer_facts
from certloom.pki.template import IssuerFacts
from certloom.signing import Signing
from certloom.status.ocsp import OCSPResponder
from certloom.status.ocsp_cache import MOST_OCTETS, Answer
from certloom.store import Store, Tx, configuration
from certloom.store import authorities as authority_statements
from certloom.store.certificates import StoredCertificate
from tests.core import Core, core
from tests.enrollment.test_pipeline import ask, certificate_of, csr
from tests.pki.ocsp_requests import cert_id, request

NONCE_OID, EXTENDED_OID = "1.3.6.1.5.5.7.48.1.2", "1.3.6.1.5.5.7.48.1.9"


class One(NamedTuple):
    """One certificate's answer."""

    serial: bytes
    kind: str
    revoked_at: str = ""
    reason: int | None = None


class Read(NamedTuple):
    """A response; ``names`` of responses without a signature are their status."""

    status: str
    all: tuple[One, ...] = ()
    nonce: bytes | None = None
    extended: bool = False
    certificate: x509.Certificate | None = None
    this_update: str = ""
    next_update: str = ""
    cutoff: str = ""

    @property
    def only(self) -> One:
        (one,) = self.all
        return one


def read(body: bytes) -> Read:
    """Decoded by pyasn1; the signature is verified with the certificate that comes with it."""
    outer, rest = decoder.decode(body, asn1Spec=rfc6960.OCSPResponse())
    assert not rest
    name = str(outer["responseStatus"].prettyPrint())
    if name != "successful":
        return Read(name)
    basic, rest = decoder.decode(outer["responseBytes"]["response"], asn1Spec=rfc6960.BasicOCSPResponse())
    assert not rest
    certificate = x509.load_der_x509_certificate(encoder.encode(basic["certs"][0]))
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    data = basic["tbsResponseData"]
    public.verify(basic["signature"].asOctets(), encoder.encode(data), ec.ECDSA(hashes.SHA256()))
    identifier = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    assert bytes(data["responderID"]["byKey"]) == identifier
    said: dict[str, bytes] = {
        str(e["extnID"]): bytes(e["extnValue"]) for e in data["responseExtensions"] if e.isValue
    }
    responses = data["responses"]
    cutoffs = [e for e in responses[0]["singleExtensions"] if e.isValue]
    return Read(
        name,
        tuple(map(_one, responses)),
        bytes(decoder.decode(said[NONCE_OID])[0]) if NONCE_OID in said else None,
        EXTENDED_OID in said,
        certificate,
        str(responses[0]["thisUpdate"]),
        str(responses[0]["nextUpdate"]),
        str(decoder.decode(bytes(cutoffs[0]["extnValue"]))[0]) if cutoffs else "",
    )


def _one(response: Any) -> One:
    status = response["certStatus"]
    number = int(response["certID"]["serialNumber"])
    serial = number.to_bytes((number.bit_length() + 7) // 8, "big")
    if status.getName() != "revoked":
        return One(serial, status.getName())
    revoked = status["revoked"]
    reason = revoked["revocationReason"]
    return One(serial, "revoked", str(revoked["revocationTime"]), int(reason) if reason.isValue else None)


class Desk:
    """A responder and who asks it."""

    def __init__(self, c: Core, responder: OCSPResponder) -> None:
        self.c = c
        self.responder = responder
        self._count = 0

    def issuer(self, name: str = "issuing") -> IssuerFacts:
        return issuer_facts(self.c.books.authority_row(name).certificate)

    def ids(self, serials: Sequence[bytes], name: str = "issuing", algorithm: str = ocsp.SHA1) -> list[bytes]:
        return [cert_id(self.issuer(name), serial, algorithm) for serial in serials]

    async def raw(self, data: bytes, authority: str | None = None) -> Answer:
        return await self.responder.answer(data, authority)

    async def ask(
        self,
        *serials: bytes,
        name: str = "issuing",
        nonce: bytes | None = None,
        algorithm: str = ocsp.SHA1,
    ) -> Read:
        answer = await self.raw(request(self.ids(serials, name, algorithm), nonce))
        return read(answer.body)

    async def issue(self) -> StoredCertificate:
        self._count += 1
        submitted = await self.c.enrollment.submit(ask(csr(), idempotency_key=f"ocsp-{self._count}"))
        return await certificate_of(self.c, submitted.certificate_id)

    async def set(self, name: str = "issuing", **options: Any) -> None:
        """Change an authority's options."""
        row = self.c.books.authority_row(name)
        body = msgspec.structs.replace(msgspec.json.decode(row.body, type=LocalBody), **options)
        changed = msgspec.structs.replace(row, body=msgspec.json.encode(body).decode())

        def unit(tx: Tx) -> None:
            authority_statements.update(tx, changed)
            configuration.touch(tx)

        await self.c.store.write(unit)
        await self.c.books.refresh()
        self.responder.load()

    @property
    def signatures(self) -> int:
        return self.responder.batches.signed


def responder_of(
    c: Core, clock: Clock, signing: Signing | None = None, octets: int = MOST_OCTETS, node: str = "node"
) -> OCSPResponder:
    made = OCSPResponder(
        c.store,
        clock,
        signing or c.signing,
        node,
        lambda: {row.name: c.local(row.name) for row in c.books.authority_rows()},
        c.books.generations,
        octets,
    )
    made.load()
    return made


@asynccontextmanager
async def desk(
    store: Store, clock: Clock, signing: Signing | None = None, octets: int = MOST_OCTETS
) -> AsyncIterator[Desk]:
    """A pipeline, and a responder over it."""
    async with core(store, clock) as c:
        yield Desk(c, responder_of(c, clock, signing, octets))
