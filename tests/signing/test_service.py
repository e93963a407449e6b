"""What the holder of keys does, and for which keys."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certloom.clock import ManualClock
from certloom.pki import keys, signatures
from certloom.pki.crl import CRLEntry, CRLTemplate
from certloom.pki.csr import parse_csr
from certloom.pki.names import parse_name
from certloom.secrets import DataKey
from certloom.signing import SigningRefused
from certloom.signing.service import Service
from tests.conftest import run
from tests.signing.making import KEY, ca_template, leaf, root, service


@pytest.mark.parametrize("algorithm", ["P-256", "P-384", "rsa-2048", "ed25519", "ed448", "ml-dsa-44"])
def test_a_hierarchy_is_signed_with_keys_of_any_kind(algorithm: str, clock: ManualClock) -> None:
    async def scenario() -> None:
        signing = service(clock)
        now = clock.now()
        _, root_der = await root(signing, now, "root", algorithm)
        below = await signing.generate("below", "ca", "below", "P-256")
        below_der = await signing.ca_certificate("root", root_der, ca_template(below.spki, now, "CN=below"))
        der = await signing.certificate("below", below_der, leaf(now))
        above, middle, end = map(x509.load_der_x509_certificate, (root_der, below_der, der))
        above.verify_directly_issued_by(above)
        middle.verify_directly_issued_by(above)
        end.verify_directly_issued_by(middle)

        contents = CRLTemplate((CRLEntry(b"\x51" * 16, now, 1),), 7, now, now + 60)
        crl = await signing.crl("below", below_der, contents)
        parsed = x509.load_der_x509_crl(crl)
        assert parsed.is_signature_valid(middle.public_key())  # type: ignore[arg-type]
        assert parsed.get_revoked_certificate_by_serial_number(end.serial_number) is not None

        csr = parse_csr(await signing.csr("below", parse_name("CN=below"), ca=True))
        assert csr.key.spki == below.spki
        assert [e.oid for e in csr.extensions] == ["2.5.29.19", "2.5.29.15"]

    run(scenario())


def test_a_record_opens_only_as_what_it_is(clock: ManualClock) -> None:
    async def scenario() -> None:
        now = clock.now()
        made, der = await root(service(clock), now)

        again = service(clock)
        again.know("root", made.record)
        await again.certificate("root", der, leaf(now))

        other_name, other_key, damaged = service(clock), Service(DataKey(bytes(32)), clock), service(clock)
        other_name.know("another", made.record)
        other_key.know("root", made.record)
        damaged.know("root", made.record[:-1] + bytes([made.record[-1] ^ 1]))
        for signing, id in (
            (other_name, "another"),
            (other_key, "root"),
            (damaged, "root"),
            (again, "nobody"),
        ):
            with pytest.raises(SigningRefused) as caught:
                await signing.certificate(id, der, leaf(now))
            assert caught.value.code == "unknown-key"
        assert made.spki not in made.record, "the record is sealed as a whole"

    run(scenario())


def test_a_ca_key_never_signs_octets_and_other_keys_never_certificates(clock: ManualClock) -> None:
    async def scenario() -> None:
        signing, now = service(clock), clock.now()
        _, der = await root(signing, now)
        responder = await signing.generate("ocsp", "ocsp", "root", "P-256")
        ra = await signing.generate("ra", "ra", "root", "rsa-2048")

        # A certificate's TBS is octets as well: whoever may have octets signed may have anything signed.
        with pytest.raises(SigningRefused) as caught:
            await signing.sign("root", [b"0123"])
        assert caught.value.code == "wrong-purpose"
        for id in ("ocsp", "ra"):
            with pytest.raises(SigningRefused) as caught:
                await signing.certificate(id, der, leaf(now))
            assert caught.value.code == "wrong-purpose"
            with pytest.raises(SigningRefused):
                await signing.ca_certificate(id, None, ca_template(responder.spki, now))
            with pytest.raises(SigningRefused):
                await signing.crl(id, der, CRLTemplate((), 1, now, now + 60))

        for id, spki in (("ocsp", responder.spki), ("ra", ra.spki)):
            public = keys.public_key(keys.facts_of(spki))
            for data, signature in zip((b"a", b"b"), await signing.sign(id, [b"a", b"b"]), strict=True):
                signatures.verify(public, signatures.algorithm_for(public), signature, data)

    run(scenario())


def test_the_issuer_must_be_the_key_s_own_certificate(clock: ManualClock) -> None:
    async def scenario() -> None:
        signing, now = service(clock), clock.now()
        made, _ = await root(signing, now)
        _, other = await root(signing, now, "other")
        for issuer in (other, b"0\x00", b""):
            with pytest.raises(SigningRefused) as caught:
                await signing.certificate("root", issuer, leaf(now))
            assert caught.value.code == "bad-request"
        # Nor can a "self-signed" certificate be had for somebody else's key.
        with pytest.raises(SigningRefused):
            await signing.ca_certificate("other", None, ca_template(made.spki, now))

    run(scenario())


def test_an_ra_key_decrypts_and_tells_nothing_of_failures(clock: ManualClock) -> None:
    async def scenario() -> None:
        signing = service(clock)
        made = await signing.generate("ra", "ra", "scep", "rsa-2048")
        public = load_der_public_key(made.spki)
        assert isinstance(public, RSAPublicKey)
        secret = b"0123456789abcdef"
        sent = public.encrypt(secret, padding.PKCS1v15())
        assert await signing.decrypt("ra", sent, "pkcs1") == secret
        garbled = await signing.decrypt("ra", sent[:-1] + bytes([sent[-1] ^ 1]), "pkcs1")
        assert garbled != secret, "random octets, not an error that says whether the padding was right"
        await signing.generate("ec", "ra", "scep", "P-256")
        with pytest.raises(SigningRefused):
            await signing.decrypt("ec", sent, "pkcs1")

    run(scenario())


def test_bad_contents_are_refused(clock: ManualClock) -> None:
    async def scenario() -> None:
        signing, now = service(clock), clock.now()
        _, der = await root(signing, now)
        for template in (
            leaf(now, not_after=now - 61),
            leaf(now, serial=b""),
            leaf(now, serial=b"\x01" * 21),
            leaf(now, key_usage=("keyCertSign",)),
            leaf(now, subject=parse_name(""), identifiers=()),
        ):
            with pytest.raises(SigningRefused) as caught:
                await signing.certificate("root", der, template)
            assert caught.value.code == "bad-request"
        with pytest.raises(SigningRefused):
            await signing.generate("x", "ca", "x", "rsa-1024")
        with pytest.raises(SigningRefused):
            await signing.adopt("x", "ca", "x", b"not a key")
        with pytest.raises(SigningRefused):
            await signing.attach("x", "ca", "x", "pkcs11:token=none")
        weak = ec.generate_private_key(ec.SECP192R1())
        with pytest.raises(SigningRefused):
            await signing.adopt("x", "ca", "x", keys.private_to_der(weak))

    run(scenario())


def test_nothing_prints_a_key(clock: ManualClock) -> None:
    async def scenario() -> None:
        signing = service(clock)
        made = await signing.generate("root", "ca", "root", "P-256")
        assert repr(made) == "MadeKey(...)"
        assert repr(signing.record("root")) == "KeyRecord(ca of root)"
        assert "pkcs8" not in repr(KEY)

    run(scenario())
