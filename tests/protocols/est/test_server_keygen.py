"""/serverkeygen (RFC 7030 section 4.4)."""

from __future__ import annotations

import email
import subprocess
from email.message import Message
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5652, rfc5958

from certloom.pki import der
from certloom.pki.pem import to_pem
from certloom.store import Store
from tests.conftest import run
from tests.enrollment.people import BOB, origin, settled
from tests.protocols.est.lab import Answer, Lab, csr, der_of, lab, new_key, subject

SYMMETRIC = "1.2.840.113549.1.9.16.2.37"
ASYMMETRIC = "1.2.840.113549.1.9.16.2.54"


def parts_of(answer: Answer) -> list[Message]:
    """The parts of a multipart message, read by Python's own library."""
    assert answer.status == 200, answer
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.body)
    assert message.is_multipart()
    return [part for part in message.walk() if part is not message]


def content(part: Message) -> bytes:
    decoded = part.get_payload(decode=True)
    assert isinstance(decoded, bytes)
    return decoded


async def with_keys(it: Lab, *algorithms: str, **more: object) -> None:
    await it.profile(server_keys={"algorithms": algorithms or ("P-256",), "keep": 600}, **more)


def test_the_key_is_the_certificates_and_not_the_requests(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await with_keys(it)
            own = new_key()
            body = csr(own, "g.example")
            # Its signature is not looked at: this key certifies nothing.
            broken = body[:-3] + bytes(3)
            password = await it.password()
            answer = await it.enroll(broken, operation="serverkeygen", authorization=password)
            key_part, certificate_part = parts_of(answer)
            assert key_part.get_content_type() == "application/pkcs8"
            assert certificate_part["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
            assert key_part["Content-Transfer-Encoding"] == "base64"
            private = serialization.load_der_private_key(content(key_part), None)
            (issued,) = pkcs7.load_der_pkcs7_certificates(content(certificate_part))
            assert issued.public_key() == private.public_key()
            assert issued.public_key() != own.public_key()
            again = await it.enroll(body, operation="serverkeygen", authorization=password)
            assert content(parts_of(again)[0]) == content(key_part)
            it.clock.advance(601)
            await it.server_keys.wipe_expired()
            gone = await it.enroll(body, operation="serverkeygen", authorization=password)
            assert gone.status == 403
            assert "no longer" in gone.text

    run(go())


def test_the_requests_key_says_which_kind_is_wanted(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await with_keys(it, "P-256", "rsa-2048", "ml-dsa-65")
            password = await it.password()
            body = csr(rsa.generate_private_key(65537, 2048), "g.example")
            answer = await it.enroll(body, operation="serverkeygen", authorization=password)
            private = serialization.load_der_private_key(content(parts_of(answer)[0]), None)
            assert isinstance(private, rsa.RSAPrivateKey)

    run(go())


def test_a_profile_that_lets_no_keys_be_made_says_so(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password(uses=1)
            body = csr(new_key(), "g.example")
            answer = await it.enroll(body, operation="serverkeygen", authorization=password)
            assert answer.status == 403
            assert "send a CSR" in answer.text
            # Nothing was spent on it.
            assert (await it.enroll(body, authorization=password)).status == 200

    run(go())


def test_a_key_waits_for_people_with_its_request(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await with_keys(it, approval={"approvers": 1})
            password, body = await it.password(), csr(new_key(), "g.example")
            assert (await it.enroll(body, operation="serverkeygen", authorization=password)).status == 202
            row = await store.read(lambda tx: tx.one("SELECT id, approval_id FROM enrolment_requests"))
            assert row is not None
            await it.c.runner.start()
            await it.c.approvals.decide(row[1], BOB, origin(BOB), "approve", "")
            await settled(it.c, row[0])
            await it.c.runner.stop(5)
            answer = await it.enroll(body, operation="serverkeygen", authorization=password)
            private = serialization.load_der_private_key(content(parts_of(answer)[0]), None)
            (issued,) = pkcs7.load_der_pkcs7_certificates(content(parts_of(answer)[1]))
            assert issued.public_key() == private.public_key()

    run(go())


def read_package(signed: bytes, folder: Path, roots: list[bytes]) -> bytes:
    """The key in SignedData over an AsymmetricKeyPackage, once OpenSSL has verified who signed it."""
    (folder / "signed.der").write_bytes(signed)
    (folder / "roots.pem").write_bytes(b"".join(map(to_pem, roots)))
    command: list[str | Path] = [
        "openssl",
        "cms",
        "-verify",
        "-inform",
        "DER",
        "-in",
        folder / "signed.der",
        "-purpose",
        "any",
    ]
    done = subprocess.run(
        [
            *command,
            "-CAfile",
            folder / "roots.pem",
            "-partial_chain",
            "-no_check_time",
            "-out",
            folder / "out",
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outer, _ = decoder.decode(signed, asn1Spec=rfc5652.ContentInfo())
    inner, _ = decoder.decode(outer["content"], asn1Spec=rfc5652.SignedData())
    assert str(inner["encapContentInfo"]["eContentType"]) == "2.16.840.1.101.2.1.2.78.5"
    package, rest = decoder.decode((folder / "out").read_bytes(), asn1Spec=rfc5958.AsymmetricKeyPackage())
    assert not rest
    (only,) = package
    return bytes(encoder.encode(only))


def opened(part: Message, folder: Path, *how: str) -> bytes:
    """What OpenSSL makes of EnvelopedData, as a ContentInfo of SignedData."""
    assert part["Content-Type"] == "application/pkcs7-mime; smime-type=server-generated-key"
    (folder / "enveloped.der").write_bytes(content(part))
    done = subprocess.run(
        [
            "openssl",
            "cms",
            "-decrypt",
            "-inform",
            "DER",
            "-in",
            folder / "enveloped.der",
            *how,
            "-out",
            folder / "d",
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decrypted = (folder / "d").read_bytes()
    return der.sequence(der.oid("1.2.840.113549.1.7.2"), der.context(0, decrypted))


def test_a_key_leaves_encrypted_under_the_symmetric_key_that_is_named(store: Store, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await with_keys(it)
            wrapping = await it.credential("est-key", "kek-1")
            body = csr(new_key(), "g.example", attributes=((SYMMETRIC, b"kek-1"),))
            password = await it.password()
            answer = await it.enroll(body, operation="serverkeygen", authorization=password)
            part, certificate_part = parts_of(answer)
            signed = opened(
                part, tmp_path, "-secretkey", wrapping.secret or "", "-secretkeyid", b"kek-1".hex()
            )
            roots = [row.certificate for row in it.c.books.authority_rows()]
            private = serialization.load_der_private_key(read_package(signed, tmp_path, roots), None)
            (issued,) = pkcs7.load_der_pkcs7_certificates(content(certificate_part))
            assert issued.public_key() == private.public_key()
            unknown = csr(new_key(), "g.example", attributes=((SYMMETRIC, b"kek-2"),))
            before = await it.count()
            refused = await it.enroll(unknown, operation="serverkeygen", authorization=password)
            assert refused.status == 400
            assert await it.count() == before

    run(go())


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_key_leaves_encrypted_to_the_client_certificate(store: Store, tmp_path: Path, kind: str) -> None:
    async def go() -> None:
        async with lab(store) as it:
            usage = "keyEncipherment" if kind == "rsa" else "keyAgreement"
            await it.profile(
                keys=[{"type": kind, "key_usage": ["digitalSignature", usage]}],
                server_keys={"algorithms": ["rsa-2048" if kind == "rsa" else "P-256"]},
            )
            own = rsa.generate_private_key(65537, 2048) if kind == "rsa" else new_key()
            held = (await it.enroll(csr(own, "h.example"), authorization=await it.password())).certificate
            (tmp_path / "own.pem").write_bytes(
                own.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            (tmp_path / "held.pem").write_bytes(to_pem(der_of(held)))
            ski = held.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            body = csr(own, "h.example", attributes=((ASYMMETRIC, ski),))
            answer = await it.enroll(body, operation="serverkeygen", certificate=held)
            part, certificate_part = parts_of(answer)
            own_files = ("-inkey", str(tmp_path / "own.pem"), "-recip", str(tmp_path / "held.pem"))
            signed = opened(part, tmp_path, *own_files)
            roots = [row.certificate for row in it.c.books.authority_rows()]
            private = serialization.load_der_private_key(read_package(signed, tmp_path, roots), None)
            (issued,) = pkcs7.load_der_pkcs7_certificates(content(certificate_part))
            assert issued.public_key() == private.public_key()
            other = csr(own, "h.example", attributes=((ASYMMETRIC, bytes(20)),))
            assert (await it.enroll(other, operation="serverkeygen", certificate=held)).status == 400

    run(go())


def test_a_channel_may_let_keys_leave_encrypted_only(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await with_keys(it)
            await it.channel(encrypt_keys=True)
            body = csr(new_key(), "g.example", name=subject(CN="g"))
            answer = await it.enroll(body, operation="serverkeygen", authorization=await it.password())
            assert answer.status == 400
            assert await it.count() == 0

    run(go())
