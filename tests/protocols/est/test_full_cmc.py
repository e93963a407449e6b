"""/fullcmc (RFC 7030 section 4.3; RFC 5272, updated by RFC 6402).

What a client sends is written by our own codecs, which ``test_cmc_messages`` holds to pyasn1; answers are
read by pyasn1 and verified by OpenSSL.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5652, rfc6402

from certloom.pki import cms, crmf, keys, signatures
from certloom.pki.certificates import parse_certificate
from certloom.pki.crmf_mac import AlgorithmIdentifier
from certloom.pki.crmf_template import CertTemplate
from certloom.pki.extensions import Extension
from certloom.pki.names import parse_name
from certloom.pki.pem import to_pem
from certloom.protocols.est.cmc_controls import (
    BatchRequests,
    CMCFailInfo,
    DataReturn,
    GetCRL,
    Identification,
    IdentityProofV2,
    LraPOPWitness,
    PopLinkRandom,
    QueryPending,
    RevokeRequest,
    SenderNonce,
    TransactionID,
    UnknownControl,
)
from certloom.protocols.est.cmc_messages import (
    ID_CCT_PKI_DATA,
    CRMRequest,
    TaggedAttribute,
    TaggedContentInfo,
    TaggedRequest,
    TCRRequest,
    encode_pki_data,
    encode_req_sequence,
    identity_proof_v2,
)
from certloom.store import Store
from certloom.store import certificates as certificate_statements
from tests.conftest import run
from tests.enrollment.people import BOB, origin, settled
from tests.protocols.est.lab import Answer, Lab, Manufacturer, PrivateKey, csr, der_of, lab, new_key, subject

MEDIA = "application/pkcs7-mime; smime-type=CMC-request"
RA = "1.3.6.1.5.5.7.3.28"
SHA256 = AlgorithmIdentifier("2.16.840.1.101.3.4.2.1")
HMAC = AlgorithmIdentifier("1.2.840.113549.2.9")


class Status(NamedTuple):
    """One CMCStatusInfoV2."""

    status: str
    parts: tuple[int, ...]
    text: str = ""
    fail: int | None = None
    token: bytes | None = None


class Read(NamedTuple):
    """A PKIResponse, read by pyasn1."""

    statuses: tuple[Status, ...]
    certificates: list[x509.Certificate]
    controls: dict[str, Any]
    inner: list[bytes]

    @property
    def only(self) -> Status:
        (one,) = self.statuses
        return one


def issued(found: Read) -> list[x509.Certificate]:
    """The end entities' certificates of an answer, but for that of who signed it."""
    return [c for c in found.certificates if " RA" not in c.subject.rfc4514_string() and not _is_ca(c)]


def _is_ca(certificate: x509.Certificate) -> bool:
    return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)


def read(der: bytes) -> Read:
    outer, rest = decoder.decode(der, asn1Spec=rfc5652.ContentInfo())
    assert not rest
    signed, rest = decoder.decode(outer["content"], asn1Spec=rfc5652.SignedData())
    assert not rest
    assert str(signed["encapContentInfo"]["eContentType"]) == "1.3.6.1.5.5.7.12.3"
    content = bytes(signed["encapContentInfo"]["eContent"])
    response, rest = decoder.decode(content, asn1Spec=rfc6402.PKIResponse())
    assert not rest
    statuses, controls = [], {}
    for tagged in response["controlSequence"]:
        oid = str(tagged["attrType"])
        value = bytes(tagged["attrValues"][0])
        if oid == "1.3.6.1.5.5.7.7.25":
            statuses.append(_status(value))
        else:
            controls[oid] = value
    certificates = [
        x509.load_der_x509_certificate(encoder.encode(each["certificate"])) for each in signed["certificates"]
    ]
    inner = [encoder.encode(each["contentInfo"]) for each in response["cmsSequence"]]
    return Read(tuple(statuses), certificates, controls, inner)


def _status(value: bytes) -> Status:
    info, rest = decoder.decode(value, asn1Spec=rfc6402.CMCStatusInfoV2())
    assert not rest
    names = {0: "success", 2: "failed", 3: "pending"}
    parts = tuple(int(reference["bodyPartID"]) for reference in info["bodyList"])
    fail, token = None, None
    if info["otherInfo"].isValue:
        kind = info["otherInfo"].getName()
        if kind == "failInfo":
            fail = int(info["otherInfo"]["failInfo"])
        elif kind == "pendInfo":
            token = bytes(info["otherInfo"]["pendInfo"]["pendToken"])
    text = str(info["statusString"]) if info["statusString"].isValue else ""
    return Status(names[int(info["cMCStatus"])], parts, text, fail, token)


def message(
    key: PrivateKey,
    certificate: x509.Certificate | None,
    requests: tuple[TaggedRequest, ...] = (),
    controls: tuple[TaggedAttribute, ...] = (),
    inner: tuple[TaggedContentInfo, ...] = (),
    chain: tuple[x509.Certificate, ...] = (),
) -> bytes:
    """A full PKI request, signed with a certificate, or with a key that one of the requests has."""
    content = encode_pki_data(controls, requests, inner)
    spki = keys.spki_of(key)
    digest = cms.digest_for(spki)
    attributes = cms.signed_attributes(ID_CCT_PKI_DATA, content, digest)
    algorithm, signature = signatures.sign_tbs(key, attributes)
    if certificate is None:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
        signer = cms.by_key_identifier(identifier)
        sent: tuple[bytes, ...] = ()
    else:
        signer = cms.by_issuer_and_serial(der_of(certificate))
        sent = tuple(map(der_of, (certificate, *chain)))
    return cms.assemble_signed_data(
        ID_CCT_PKI_DATA, content, attributes, signature, signer, digest, algorithm, sent
    )


async def send(it: Lab, body: bytes, **how: Any) -> tuple[Answer, Read]:
    answer = await it.enroll(body, operation="fullcmc", media=MEDIA, **how)
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=CMC-response", answer
    return answer, read(answer.der)


async def holder(it: Lab, *dns: str, cn: str = "dev1") -> tuple[PrivateKey, x509.Certificate]:
    """Somebody with a certificate of the channel's."""
    key = new_key()
    answer = await it.enroll(
        csr(key, *dns, name=subject(CN=cn)), authorization=await it.password(id=f"h-{cn}")
    )
    return key, answer.certificate


async def ra(it: Lab) -> tuple[PrivateKey, x509.Certificate]:
    """A registration authority of the channel."""
    await it.profile(name="ra-operator", extended_key_usage=["clientAuth", RA])
    await it.channel(name="ra-operators", profile="ra-operator")
    await it.channel(profiles_accepted=["ra-operator"])
    key = new_key()
    password = await it.password(id="ra1")
    answer = await it.enroll(
        csr(key, name=subject(CN="RA 1")), channel="ra-operators", authorization=password
    )
    return key, answer.certificate


def test_a_request_that_a_certificate_signed_is_issued(store: Store, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key, certificate = await holder(it, "a.example")
            fresh = new_key()
            controls = (
                TaggedAttribute(7, TransactionID(42)),
                TaggedAttribute(8, SenderNonce(b"n" * 16)),
                TaggedAttribute(9, DataReturn(b"back")),
            )
            body = message(key, certificate, (TCRRequest(1, csr(fresh, "a.example")),), controls)
            answer, found = await send(it, body)
            assert answer.status == 200
            assert found.only == Status("success", (1,))
            (new,) = issued(found)
            assert new.public_key() == fresh.public_key()
            assert bytes(decoder.decode(found.controls["1.3.6.1.5.5.7.7.7"])[0]) == b"n" * 16
            assert int(decoder.decode(found.controls["1.3.6.1.5.5.7.7.5"])[0]) == 42
            assert bytes(decoder.decode(found.controls["1.3.6.1.5.5.7.7.4"])[0]) == b"back"
            # A certificate that asks for what it says itself is renewed.
            was = parse_certificate(der_of(certificate))
            stored = await store.read(lambda tx: certificate_statements.by_fingerprint(tx, was.sha256))
            assert stored is not None
            assert stored.replaced_by is not None
            # The same message once more gets the same certificate.
            _, again = await send(it, body)
            assert issued(again) == [new]
            (tmp_path / "answer.der").write_bytes(answer.der)
            (tmp_path / "roots.pem").write_bytes(
                b"".join(to_pem(row.certificate) for row in it.c.books.authority_rows())
            )
            command: list[str | Path] = [
                "openssl",
                "cms",
                "-verify",
                "-inform",
                "DER",
                "-in",
                tmp_path / "answer.der",
            ]
            done = subprocess.run(
                [*command, "-CAfile", tmp_path / "roots.pem", "-purpose", "any", "-no_check_time", "-binary",
                 "-out", tmp_path / "out"],
                capture_output=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr

    run(go())


def test_a_manufacturers_certificate_signs_as_well(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            acme, key = Manufacturer(), new_key()
            await it.anchors("acme", acme.root)
            await it.channel(anchors=["acme"])
            idevid = acme.device(key, subject(CN="Sensor 1"))
            request = TCRRequest(1, csr(new_key(), name=subject(CN="Sensor 1")))
            _, found = await send(it, message(key, idevid, (request,), chain=(acme.intermediate,)))
            assert found.only.status == "success"
            other = TCRRequest(1, csr(new_key(), name=subject(CN="Sensor 2")))
            answer, found = await send(it, message(key, idevid, (other,), chain=(acme.intermediate,)))
            assert answer.status == 400
            assert found.only.status == "failed"
            stranger = Manufacturer("Stranger")
            forged = stranger.device(key, subject(CN="Sensor 1"))
            answer, found = await send(it, message(key, forged, (request,), chain=(stranger.intermediate,)))
            assert answer.status == 403
            assert found.only.fail == CMCFailInfo.badIdentity

    run(go())


def proof(secret: str, name: str, requests: tuple[TaggedRequest, ...]) -> tuple[TaggedAttribute, ...]:
    witness = identity_proof_v2(
        secret, SHA256.oid, HMAC.oid, encode_req_sequence(requests), identification=name
    )
    return (
        TaggedAttribute(100, Identification(name)),
        TaggedAttribute(101, IdentityProofV2(SHA256, HMAC, witness)),
    )


def test_a_shared_secret_proves_who_it_is(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            made = await it.credential("cmc-secret", "dev-7", uses=1)
            key = new_key()
            requests = (TCRRequest(1, csr(key, "s.example")),)
            good = message(key, None, requests, proof(made.secret or "", "dev-7", requests))
            _, found = await send(it, good)
            assert found.only.status == "success"
            (certificate,) = issued(found)
            assert certificate.public_key() == key.public_key()
            for secret, name in (("wrong", "dev-7"), (made.secret or "", "dev-8")):
                bad = message(key, None, requests, proof(secret, name, requests))
                answer, found = await send(it, bad)
                assert answer.status == 403
                assert found.only.fail == CMCFailInfo.badIdentity
            # A proof over other requests proves nothing.
            other = (TCRRequest(1, csr(key, "t.example")),)
            _, found = await send(it, message(key, None, other, proof(made.secret or "", "dev-7", requests)))
            assert found.only.fail == CMCFailInfo.badIdentity
            # It has been used up.
            again = new_key()
            second = (TCRRequest(1, csr(again, "s.example")),)
            _, found = await send(it, message(again, None, second, proof(made.secret or "", "dev-7", second)))
            assert found.only.status == "failed"
            assert await it.count() == 1

    run(go())


def test_requests_are_linked_to_the_secret_where_the_message_says_so(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            made = await it.credential("cmc-secret", "dev-7")
            key = new_key()
            requests = (TCRRequest(1, csr(key, "s.example")),)
            controls = (
                *proof(made.secret or "", "dev-7", requests),
                TaggedAttribute(102, PopLinkRandom(b"r" * 64)),
            )
            _, found = await send(it, message(key, None, requests, controls))
            assert found.only.fail == CMCFailInfo.popFailed
            assert await it.count() == 0

    run(go())


def test_a_password_over_http_does_as_well(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key = new_key()
            body = message(key, None, (TCRRequest(1, csr(key, "p.example")),))
            answer, found = await send(it, body)
            assert answer.status == 403
            assert found.only.fail == CMCFailInfo.badIdentity
            _, found = await send(it, body, authorization=await it.password())
            assert found.only.status == "success"

    run(go())


def crm(number: int, key: PrivateKey, name: str, *dns: str) -> CRMRequest:
    """A CRMF request with its proof of possession."""
    extensions: tuple[Extension, ...] = ()
    if dns:
        san = x509.SubjectAlternativeName([x509.DNSName(each) for each in dns])
        extensions = (Extension("2.5.29.17", False, san.public_bytes()),)
    template = CertTemplate(subject=parse_name(name), public_key=keys.spki_of(key), extensions=extensions)
    request = crmf.encode_cert_request(number, template)
    algorithm, signature = signatures.sign_tbs(key, request)
    return CRMRequest(number, crmf.encode_cert_req_msg(request, crmf.POPOSigningKey(algorithm, signature)))


def test_several_requests_of_both_kinds_each_get_their_own_status(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            ra_key, ra_certificate = await ra(it)
            first, second, third = new_key(), new_key(), new_key()
            broken = csr(third, "c.example")
            requests = (
                TCRRequest(1, csr(first, "a.example", name=subject(CN="a"))),
                crm(2, second, "CN=b", "b.example"),
                TCRRequest(3, broken[:-2] + bytes(2)),
                TCRRequest(4, csr(new_key(), name=subject(CN="10.0.0.1"))),
                TCRRequest(5, b"\x30\x03\x02\x01\x00"),
            )
            answer, found = await send(it, message(ra_key, ra_certificate, requests))
            assert answer.status == 200
            by_part = {part: status for status in found.statuses for part in status.parts}
            assert [by_part[n].status for n in (1, 2)] == ["success", "success"]
            assert by_part[3].fail == CMCFailInfo.popFailed
            assert by_part[5].status == "failed"
            certificates = issued(found)
            assert {c.subject.rfc4514_string() for c in certificates} >= {"CN=a", "CN=b"}
            keys_found = [c.public_key() for c in certificates]
            assert first.public_key() in keys_found
            assert second.public_key() in keys_found
            # Proof of possession is the CRMF request's own, too.
            forged = crm(6, second, "CN=b", "b.example")
            wrong = crmf.decode_cert_req_msg(forged.der)
            assert isinstance(wrong.popo, crmf.POPOSigningKey)
            spoilt = crmf.POPOSigningKey(wrong.popo.algorithm, wrong.popo.signature[:-1] + b"\0")
            bad = CRMRequest(6, crmf.encode_cert_req_msg(wrong.request.der, spoilt))
            _, found = await send(it, message(ra_key, ra_certificate, (bad,)))
            assert found.only.fail == CMCFailInfo.popFailed

    run(go())


def test_a_registration_authority_sends_batches_and_nobody_else(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            ra_key, ra_certificate = await ra(it)
            key, certificate = await holder(it, "h.example")
            one, other = new_key(), new_key()
            inner = (
                TaggedContentInfo(11, message(one, None, (TCRRequest(1, csr(one, "one.example")),))),
                TaggedContentInfo(12, message(other, None, (TCRRequest(1, csr(other, "other.example")),))),
            )
            controls = (TaggedAttribute(1, BatchRequests((11, 12))),)
            answer, found = await send(it, message(ra_key, ra_certificate, (), controls, inner))
            assert answer.status == 200
            assert len(found.inner) == 2
            got = [issued(read(each))[0].public_key() for each in found.inner]
            assert got == [one.public_key(), other.public_key()]
            before = await it.count()
            answer, found = await send(it, message(key, certificate, (), controls, inner))
            assert answer.status == 403
            assert found.only.fail == CMCFailInfo.badIdentity
            assert await it.count() == before

    run(go())


def test_within_a_batch_nobody_has_the_registration_authoritys_rights(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            ra_key, ra_certificate = await ra(it)
            _, victim = await holder(it, "v.example")
            one = new_key()
            facts = parse_certificate(der_of(victim))
            issuer = parse_name(victim.issuer.rfc4514_string())
            sneaky = (TaggedAttribute(2, RevokeRequest(issuer, facts.serial, 1)),)
            nested = message(one, None, (TCRRequest(1, csr(one, "n.example")),), sneaky)
            witness = (TaggedAttribute(2, LraPOPWitness(0, (1,))),)
            popless = message(one, None, (TCRRequest(1, csr(one, "m.example")),), witness)
            controls = (TaggedAttribute(1, BatchRequests((11, 12))),)
            inner = (TaggedContentInfo(11, nested), TaggedContentInfo(12, popless))
            _, found = await send(it, message(ra_key, ra_certificate, (), controls, inner))
            first, second = (read(each) for each in found.inner)
            assert {s.status for s in first.statuses} == {"success", "failed"}
            assert second.only.fail == CMCFailInfo.popFailed
            stored = await store.read(lambda tx: certificate_statements.by_fingerprint(tx, facts.sha256))
            assert stored is not None
            assert stored.revoked is None

    run(go())


def test_a_registration_authority_vouches_for_possession_and_nobody_else(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            ra_key, ra_certificate = await ra(it)
            key, certificate = await holder(it, "h.example")
            unproven = csr(new_key(), "h.example")[:-2] + bytes(2)
            controls = (TaggedAttribute(2, LraPOPWitness(0, (1,))),)
            requests = (TCRRequest(1, unproven),)
            _, found = await send(it, message(ra_key, ra_certificate, requests, controls))
            assert found.only.status == "success"
            _, found = await send(it, message(key, certificate, requests, controls))
            assert found.only.fail == CMCFailInfo.popFailed

    run(go())


def test_who_holds_a_certificate_revokes_it_and_no_other(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key, mine = await holder(it, "m.example", cn="mine")
            _, others = await holder(it, "o.example", cn="others")
            issuer = parse_name(mine.issuer.rfc4514_string())

            async def ask(
                of: x509.Certificate,
                reason: int = 4,
                signer: tuple[PrivateKey, x509.Certificate] = (key, mine),
            ) -> Status:
                serial = parse_certificate(der_of(of)).serial
                control = TaggedAttribute(3, RevokeRequest(issuer, serial, reason))
                return (await send(it, message(*signer, (), (control,))))[1].only

            assert (await ask(others)).fail == CMCFailInfo.badCertId
            assert (await ask(mine, 2)).status == "failed"
            assert await ask(mine) == Status("success", (3,))
            digest = parse_certificate(der_of(mine)).sha256
            stored = await store.read(lambda tx: certificate_statements.by_fingerprint(tx, digest))
            assert stored is not None
            assert stored.revocation_reason == 4
            # With a revoked certificate nobody signs anything more.
            assert (await ask(mine)).fail == CMCFailInfo.badIdentity
            assert await ask(others, signer=await ra(it)) == Status("success", (3,))

    run(go())


def test_what_waits_is_asked_about_with_its_token(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key, certificate = await holder(it, "w.example")
            other_key, other_certificate = await holder(it, "x.example", cn="other")
            await it.profile(approval={"approvers": 1})
            requests = (TCRRequest(1, csr(new_key(), "w.example")),)
            answer, found = await send(it, message(key, certificate, requests))
            assert answer.status == 200
            assert found.only.status == "pending"
            token = found.only.token
            assert token is not None
            query = (TaggedAttribute(1, QueryPending(token)),)
            _, found = await send(it, message(key, certificate, (), query))
            assert found.only.status == "pending"
            row = await store.read(
                lambda tx: tx.one(
                    "SELECT id, approval_id FROM enrolment_requests WHERE approval_id IS NOT NULL"
                )
            )
            assert row is not None
            await it.c.runner.start()
            await it.c.approvals.decide(row[1], BOB, origin(BOB), "approve", "")
            await settled(it.c, row[0])
            await it.c.runner.stop(5)
            _, found = await send(it, message(other_key, other_certificate, (), query))
            assert found.only.status == "failed"
            _, found = await send(it, message(key, certificate, (), query))
            assert found.only.status == "success"
            assert len(issued(found)) == 1

    run(go())


def test_what_is_not_understood_is_refused_as_a_whole(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key, certificate = await holder(it, "u.example")
            before = await it.count()
            requests = (TCRRequest(1, csr(new_key(), "u.example")),)
            for control in (UnknownControl("1.2.3.4", (b"\x05\x00",)), GetCRL(parse_name("CN=x"))):
                answer, found = await send(
                    it, message(key, certificate, requests, (TaggedAttribute(2, control),))
                )
                assert answer.status == 400
                assert found.only.parts == (2,)
            whole = message(key, certificate, requests)
            tampered = whole.replace(b"u.example", b"v.example")
            answer, found = await send(it, tampered)
            assert answer.status == 400
            assert found.only.fail == CMCFailInfo.badMessageCheck
            _, found = await send(it, message(key, certificate))
            assert found.only.status == "failed"
            assert await it.count() == before
            for body in (
                b"\x30\x00",
                csr(new_key(), "u.example"),
                whole[: len(whole) // 2],
                b"\x30\x80\x00\x00",
            ):
                answer = await it.enroll(body, operation="fullcmc", media=MEDIA)
                assert answer.status == 400
                assert answer.headers["content-type"].startswith("text/plain")
            assert (await it.enroll(whole, operation="fullcmc")).status == 415
            assert await it.count() == before

    run(go())
