"""/cacerts, /simpleenroll and who may use it (RFC 7030, RFC 8951)."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from certloom.clock import ManualClock
from certloom.pki import csr as csr_codec
from certloom.pki import keys, signatures
from certloom.pki.names import parse_name
from certloom.store import Store
from certloom.store import certificates as certificate_statements
from tests.conftest import run
from tests.protocols.est.lab import NOW, Manufacturer, basic, csr, der_of, lab, new_key, subject


def test_a_password_gets_the_issued_certificate_alone(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, key = await it.password(), new_key()
            answer = await it.enroll(csr(key, "dev1.example.com"), authorization=password)
            assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
            issued = answer.certificate
            assert issued.public_key() == key.public_key()
            names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == ["dev1.example.com"]
            stored = await store.read(
                lambda tx: certificate_statements.by_fingerprint(tx, issued.fingerprint(SHA256()))
            )
            assert stored is not None
            assert stored.requester == "credential:dev"
            assert stored.channel == "est/default"

    run(go())


def test_a_token_does_as_well_as_a_password(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            made = await it.credential("est-token", "t1")
            answer = await it.enroll(csr(new_key(), "a.example"), authorization=f"Bearer {made.secret}")
            assert answer.status == 200
            # A token is no password, and the other way round.
            refused = await it.enroll(
                csr(new_key(), "a.example"), authorization=basic("t1", made.secret or "")
            )
            assert refused.status == 401

    run(go())


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_other_kinds_of_keys_are_certified(store: Store, kind: str) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key = (
                rsa.generate_private_key(65537, 2048)
                if kind == "rsa"
                else ed25519.Ed25519PrivateKey.generate()
            )
            answer = await it.enroll(csr(key, "k.example"), authorization=await it.password())
            assert answer.certificate.public_key() == key.public_key()

    run(go())


def test_a_post_quantum_key_is_certified(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key = keys.generate("ml-dsa-65")
            assert isinstance(key, mldsa.MLDSA65PrivateKey)
            tbs = csr_codec.tbs_csr(parse_name("CN=pq1"), keys.spki_of(key), ca=False)
            answer = await it.enroll(signatures.assemble(key, tbs), authorization=await it.password())
            assert der_of(answer.certificate).find(keys.spki_of(key)) > 0

    run(go())


def test_bodies_are_taken_as_senders_write_them(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, der = await it.password(), csr(new_key(), "b.example")
            text = base64.b64encode(der)
            folded = b"".join(text[i : i + 64] + b"\r\n" for i in range(0, len(text), 64))
            begin, end = b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n"
            for body in (der, text, folded, b"\n" + text + b"\n", begin + folded + end):
                answer = await it.enroll(body, raw=True, authorization=password)
                assert answer.status == 200, body[:40]
            # The same ask each time, whatever it was written in.
            assert await it.count() == 1
            for media in ("application/pkcs10; charset=us-ascii", "Application/PKCS10", None):
                assert (await it.enroll(der, authorization=password, media=media)).status == 200
            cte = ((b"content-transfer-encoding", b"base64"),)
            assert (await it.enroll(der, authorization=password, headers=cte)).status == 200
            wrong = ((b"content-transfer-encoding", b"binary"),)
            assert (await it.enroll(der, authorization=password, headers=wrong)).status == 200

    run(go())


def test_answers_are_on_one_line_but_for_http_1_0(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, der = await it.password(), csr(new_key(), "b.example")
            new = await it.enroll(der, authorization=password)
            assert b"\n" not in new.body
            # To be ignored (RFC 8951 section 3), and needed by clients of before.
            assert new.headers["content-transfer-encoding"] == "base64"
            old = await it.enroll(der, authorization=password, version="1.0")
            lines = old.body.split(b"\r\n")
            assert max(map(len, lines)) == 64
            assert old.der == new.der
            assert old.headers["content-transfer-encoding"] == "base64"

    run(go())


def test_labels_stand_behind_or_before_the_well_known_part(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.channel(name="iot")
            password = await it.password()
            for path in (
                "/.well-known/est/simpleenroll",
                "/.well-known/est/iot/simpleenroll",
                "/iot/.well-known/est/simpleenroll",
                "/default/.well-known/est/simpleenroll",
            ):
                answer = await it.ask(path, csr(new_key(), "l.example"), authorization=password)
                assert answer.status == 200, path
            for path in (
                "/.well-known/est/none/simpleenroll",
                "/.well-known/est/simpleenroll/iot",
                "/iot/.well-known/est/iot/simpleenroll",
                "/.well-known/est/",
                "/.well-known/est/nothing",
            ):
                answer = await it.ask(path, csr(new_key(), "l.example"), authorization=password)
                assert answer.status == 404, path

    run(go())


def test_a_password_is_good_on_its_channel_only(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.channel(name="iot")
            password = await it.password(channel="iot")
            body = csr(new_key(), "c.example")
            assert (await it.enroll(body, channel="iot", authorization=password)).status == 200
            assert (await it.enroll(body, authorization=password)).status == 401

    run(go())


def test_who_shows_nothing_is_told_how_to_do_better(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            answer = await it.enroll(csr(new_key(), "c.example"))
            assert answer.status == 401
            assert "www-authenticate" in answer.headers
            # Bouncy Castle asks so first, and cannot go on from an answer that says more.
            assert answer.body == b""
            await it.channel(accept=["certificate"])
            answer = await it.enroll(csr(new_key(), "c.example"))
            assert answer.status == 403
            assert "client certificate" in answer.text
            assert await it.count() == 0

    run(go())


def test_passwords_are_not_guessed_without_end(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            good = await it.password()
            body = csr(new_key(), "c.example")
            for _ in range(5):
                assert (await it.enroll(body, authorization=basic("dev", "wrong"))).status == 401
            answer = await it.enroll(body, authorization=good)
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) <= 60
            it.clock.advance(60)
            assert (await it.enroll(body, authorization=good)).status == 200

    run(go())


def test_a_password_that_may_be_used_once_serves_one_ask(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password(uses=1)
            body = csr(new_key(), "once.example")
            first = await it.enroll(body, authorization=password)
            # The same once more: the answer may have been lost.
            again = await it.enroll(body, authorization=password)
            assert first.der == again.der
            other = await it.enroll(csr(new_key(), "once.example"), authorization=password)
            assert other.status == 401
            assert "used up" in other.text
            assert await it.count() == 1

    run(go())


def test_a_password_is_for_its_names(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password(names=("*.plant.example",))
            ok = csr(new_key(), "a.plant.example", name=subject(CN="a.plant.example"))
            assert (await it.enroll(ok, authorization=password)).status == 200
            for body in (
                csr(new_key(), "a.office.example", name=subject(CN="a.plant.example")),
                csr(new_key(), "a.plant.example", name=subject(CN="core.office.example")),
                csr(new_key(), name=subject(CN="core")),
            ):
                answer = await it.enroll(body, authorization=password)
                assert answer.status == 403
            assert await it.count() == 1

    run(go())


def test_the_same_ask_gets_the_same_certificate_for_a_while(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.channel(repeat_seconds=600)
            password, key = await it.password(), new_key()
            first = await it.enroll(csr(key, "same.example"), authorization=password)
            it.clock.advance(590)
            # Signed again: an ECDSA signature is another each time.
            assert (await it.enroll(csr(key, "same.example"), authorization=password)).der == first.der
            it.clock.advance(20)
            assert (await it.enroll(csr(key, "same.example"), authorization=password)).der != first.der
            assert await it.count() == 2

    run(go())


def test_a_device_gets_in_by_its_manufacturers_certificate(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            acme = Manufacturer()
            await it.anchors("acme", acme.root)
            await it.channel(anchors=["acme"], certificate_names="profile")
            await it.profile(
                subject=[{"type": "CN", "value": "{cert.serialNumber}"}, {"type": "O", "value": "Plant"}],
                names={
                    "types": ["dns"],
                    "required": True,
                    "from_certificate": ["dns:{cert.serialNumber}.devices.example"],
                    "asked": False,
                },
            )
            key = new_key()
            idevid = acme.device(key, subject(CN="Sensor", serialNumber="SN-0042"))
            body = csr(new_key(), name=subject(CN="whatever"))
            answer = await it.enroll(body, certificate=idevid, chain=(acme.intermediate,))
            issued = answer.certificate
            assert issued.subject.rfc4514_string() == "O=Plant,CN=SN-0042"
            names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == ["sn-0042.devices.example"]
            asked = await it.enroll(
                csr(new_key(), "other.example"), certificate=idevid, chain=(acme.intermediate,)
            )
            assert asked.status == 403
            # Without the intermediate there is no way up, unless it is an anchor itself.
            assert (await it.enroll(body, certificate=idevid)).status in (401, 403)
            await it.anchors("acme", acme.root, acme.intermediate)
            assert (await it.enroll(body, certificate=idevid)).status == 200

    run(go())


def test_what_a_certificate_alone_may_ask_for_stands_in_it(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            acme = Manufacturer()
            await it.anchors("acme", acme.root, acme.intermediate)
            await it.channel(anchors=["acme"])
            idevid = acme.device(
                new_key(), subject(CN="Sensor 7", serialNumber="7"), dns=("s7.acme.example",)
            )
            for body in (
                csr(new_key(), name=subject(CN="Sensor 7")),
                csr(new_key(), "s7.acme.example", name=subject(CN="s7.acme.example")),
            ):
                assert (await it.enroll(body, certificate=idevid)).status == 200
            for body in (
                csr(new_key(), name=subject(CN="Sensor 8")),
                csr(new_key(), "s8.acme.example", name=subject(CN="Sensor 7")),
            ):
                answer = await it.enroll(body, certificate=idevid)
                assert answer.status == 403
                assert "does not stand in the client certificate" in answer.text

    run(go())


def test_certificates_that_do_not_count_are_as_good_as_none(store: Store) -> None:
    async def go() -> None:
        clock = ManualClock(NOW)
        async with lab(store, clock) as it:
            acme, other = Manufacturer(), Manufacturer("Other")
            await it.anchors("acme", acme.root, acme.intermediate)
            await it.channel(anchors=["acme"], certificate_names="profile", accept=["certificate"])
            body = csr(new_key(), name=subject(CN="x"))
            name = subject(CN="d")
            wrong = {
                "another anchor": other.device(new_key(), name),
                "expired": acme.device(new_key(), name, days=50),
                "not for clients": acme.device(new_key(), name, purpose="1.3.6.1.5.5.7.3.1"),
                "a CA": acme.intermediate,
            }
            for why, certificate in wrong.items():
                answer = await it.enroll(body, certificate=certificate)
                assert answer.status == 403, why
            assert await it.count() == 0
            # Nor do they keep out who has a password.
            await it.channel(anchors=["acme"], certificate_names="profile")
            password = await it.password()
            for why, certificate in wrong.items():
                answer = await it.enroll(body, certificate=certificate, authorization=password)
                assert answer.status == 200, why

    run(go())


def test_a_blocked_key_gets_nobody_in(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            acme, key = Manufacturer(), new_key()
            await it.anchors("acme", acme.root, acme.intermediate)
            await it.channel(anchors=["acme"], certificate_names="profile")
            idevid = acme.device(key, subject(CN="stolen"))
            body = csr(new_key(), name=subject(CN="x"))
            assert (await it.enroll(body, certificate=idevid)).status == 200
            digest = keys.facts_of(keys.spki_of(key)).spki_sha256
            await store.write(
                lambda tx: certificate_statements.block_key(tx, digest, "stolen", it.clock.now())
            )
            assert (await it.enroll(body, certificate=idevid)).status == 401

    run(go())


def test_both_means_both(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            acme = Manufacturer()
            await it.anchors("acme", acme.root, acme.intermediate)
            await it.channel(anchors=["acme"], accept=["both"])
            idevid = acme.device(new_key(), subject(CN="d"))
            password, body = await it.password(), csr(new_key(), name=subject(CN="x"))
            assert (await it.enroll(body, authorization=password)).status in (401, 403)
            alone = await it.enroll(body, certificate=idevid)
            assert alone.status == 401
            assert "beside the certificate" in alone.text
            assert (await it.enroll(body, certificate=idevid, authorization=password)).status == 200

    run(go())


def test_a_request_is_bound_to_its_tls_session(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password()
            unique = b"finished-0123456789"
            bound = csr(new_key(), "b.example", password=base64.b64encode(unique).decode())
            assert (await it.enroll(bound, authorization=password, tls_unique=unique)).status == 200
            answer = await it.enroll(bound, authorization=password, tls_unique=b"another session")
            assert answer.status == 403
            assert "another TLS session" in answer.text
            # TLS 1.3 has no such thing, and does not ask for it unless the channel does.
            unbound = csr(new_key(), "b.example")
            assert (await it.enroll(unbound, authorization=password)).status == 200
            await it.channel(channel_binding="required")
            for unique_now in (None, unique):
                other = csr(new_key(), "b.example")
                assert (await it.enroll(other, authorization=password, tls_unique=unique_now)).status == 403
            assert (await it.enroll(bound, authorization=password, tls_unique=unique)).status == 200

    run(go())


def test_cacerts_holds_the_chain_with_its_root(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            answer = await it.ask("/.well-known/est/cacerts")
            names = {c.subject.rfc4514_string() for c in answer.certificates}
            assert names == {"CN=Test Root", "CN=Test Issuing"}
            assert (await it.ask("/.well-known/est/cacerts", b"x", method="POST")).status == 405
            assert (await it.ask("/.well-known/est/simpleenroll", method="GET")).status == 405

    run(go())


def test_a_profile_of_server_names_wants_the_common_name_among_them(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.profile(extended_key_usage=["serverAuth", "clientAuth"], names={"types": ["dns"]})
            password = await it.password()
            bad = await it.enroll(
                csr(new_key(), "a.example", name=subject(CN="b.example")), authorization=password
            )
            assert bad.status == 403
            assert "is not one of the certificate's names" in bad.text
            none = await it.enroll(csr(new_key(), name=subject(CN="b.example")), authorization=password)
            assert none.status in (400, 403)
            assert await it.count() == 0

    run(go())
