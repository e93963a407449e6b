"""/simplereenroll (RFC 7030 section 4.2.2)."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from certloom.audit import SYSTEM
from certloom.identity.credentials import Terms
from certloom.pki import der, general_names, names, signatures
from certloom.pki.identifiers import parse_dns
from certloom.store import Store
from certloom.store import certificates as certificate_statements
from certloom.store.certificates import StoredCertificate
from tests.conftest import run
from tests.protocols.est.lab import (
    DAY,
    Answer,
    Lab,
    Manufacturer,
    PrivateKey,
    basic,
    csr,
    lab,
    new_key,
    subject,
)


async def first(it: Lab, *dns: str, cn: str = "dev1") -> tuple[x509.Certificate, PrivateKey]:
    key = new_key()
    answer = await it.enroll(
        csr(key, *dns, name=subject(CN=cn)), authorization=await it.password(id=f"u-{cn}")
    )
    return answer.certificate, key


async def again(it: Lab, body: bytes, certificate: x509.Certificate) -> Answer:
    return await it.enroll(body, operation="simplereenroll", certificate=certificate)


async def stored(store: Store, certificate: x509.Certificate) -> StoredCertificate:
    digest = certificate.fingerprint(SHA256())
    found = await store.read(lambda tx: certificate_statements.by_fingerprint(tx, digest))
    assert found is not None
    return found


def changed_names(subject_name: str | None, *dns: str) -> tuple[str, bytes]:
    """ChangeSubjectName (RFC 6402 section 2.8, with erratum 3943)."""
    parts = b"" if subject_name is None else names.encode(names.parse_name(subject_name))
    if dns:
        whole = general_names.encode([parse_dns(each) for each in dns])
        parts += b"\xa1" + whole[1:]
    return "1.3.6.1.5.5.7.7.36", der.tlv(der.SEQUENCE, parts)


def with_attribute(body: bytes, oid: str, value: bytes, key: PrivateKey) -> bytes:
    """The request with one more attribute, signed anew."""
    info = der.whole(body).enter()
    version, name, spki = info.raw(der.INTEGER), info.raw(der.SEQUENCE), info.raw(der.SEQUENCE)
    attributes = info.content(0xA0) + der.sequence(der.oid(oid), der.set_of(value))
    tbs = der.sequence(version, name, spki, der.context(0, attributes))
    return signatures.assemble(key, tbs)


def test_a_certificate_renews_itself_with_a_new_key_and_is_followed(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            old, _ = await first(it, "r.example")
            answer = await again(it, csr(new_key(), "r.example"), old)
            new = answer.certificate
            assert new.subject == old.subject
            was, now = await stored(store, old), await stored(store, new)
            assert was.replaced_by == now.id
            assert now.requester == f"certificate:{old.fingerprint(SHA256()).hex()}"

    run(go())


def test_owner_and_team_stay(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            made = await store.write(
                lambda tx: it.c.credentials.create(
                    tx, "est-password", Terms(), id="owned", owner="service:plant", origin=SYSTEM
                )
            )
            header = basic("owned", made.secret or "")
            old = (await it.enroll(csr(new_key(), "o.example"), authorization=header)).certificate
            new = (await again(it, csr(new_key(), "o.example"), old)).certificate
            assert (await stored(store, new)).owner == "service:plant"

    run(go())


def test_names_that_differ_are_refused(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            old, _ = await first(it, "r.example")
            for body in (
                csr(new_key(), "other.example"),
                csr(new_key(), "r.example", "more.example"),
                csr(new_key()),
                csr(new_key(), "r.example", name=subject(CN="another")),
                csr(new_key(), "r.example", name=subject(CN="dev1", O="Acme")),
            ):
                answer = await again(it, body, old)
                assert answer.status == 403
                assert "4.2.2" in answer.text
            assert await it.count() == 1

    run(go())


def test_what_the_profile_left_out_may_be_asked_for_again(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            name = subject(O="Acme", CN="dev1")
            old = (
                await it.enroll(csr(new_key(), "r.example", name=name), authorization=await it.password())
            ).certificate
            assert old.subject == subject(CN="dev1")
            new = (await again(it, csr(new_key(), "r.example", name=name), old)).certificate
            assert new.subject == old.subject

    run(go())


def test_a_revoked_certificate_renews_nothing(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            old, _ = await first(it, "r.example")
            await it.c.revoker.revoke((await stored(store, old)).id, 4, SYSTEM)
            answer = await again(it, csr(new_key(), "r.example"), old)
            assert answer.status == 401
            assert "revoked" in answer.text

    run(go())


def test_an_expired_certificate_renews_itself_where_the_channel_says_so(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            old, _ = await first(it, "r.example")
            it.clock.advance(33 * DAY)
            body = csr(new_key(), "r.example")
            assert (await again(it, body, old)).status == 401
            await it.channel(renew_expired=5 * DAY)
            # It gets in for nothing else.
            assert (await it.enroll(csr(new_key(), "r.example"), certificate=old)).status == 401
            assert (await again(it, body, old)).status == 200
            it.clock.advance(5 * DAY)
            assert (await again(it, csr(new_key(), "r.example"), old)).status == 401

    run(go())


def test_the_profile_says_whether_a_renewal_has_a_new_key(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            key = new_key()
            body = csr(key, "k.example")
            old = (await it.enroll(body, authorization=await it.password())).certificate
            await it.profile(renewal={"new_key": "required"})
            refused = await again(it, body, old)
            assert refused.status == 403
            assert "new key" in refused.text
            assert (await again(it, csr(new_key(), "k.example"), old)).status == 200
            await it.profile(renewal={"new_key": "forbidden"})
            assert (await again(it, csr(new_key(), "k.example"), old)).status == 403
            assert (await again(it, body, old)).status == 200

    run(go())


def test_names_change_by_change_subject_name_where_the_profile_lets_them(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            old, _ = await first(it, "r.example")
            key = new_key()
            plain = csr(key, "r.example")
            asking = with_attribute(plain, *changed_names("CN=dev2", "s.example"), key)
            refused = await again(it, asking, old)
            assert refused.status == 403
            assert "ChangeSubjectName" in refused.text
            await it.profile(renewal={"change_names": True})
            new = (await again(it, asking, old)).certificate
            assert new.subject == subject(CN="dev2")
            san = new.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert san.get_values_for_type(x509.DNSName) == ["s.example"]
            empty = with_attribute(plain, "1.3.6.1.5.5.7.7.36", der.sequence(), key)
            assert (await again(it, empty, old)).status == 400

    run(go())


def test_by_password_the_newest_of_ones_own_with_these_names_is_renewed(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.channel(accept=["credential"], repeat_seconds=0)
            mine, others = await it.password("mine"), await it.password("others")
            old = (await it.enroll(csr(new_key(), "p.example"), authorization=mine)).certificate
            body = csr(new_key(), "p.example")
            answer = await it.enroll(body, operation="simplereenroll", authorization=others)
            assert answer.status == 403
            assert "no certificate of yours" in answer.text
            new = (await it.enroll(body, operation="simplereenroll", authorization=mine)).certificate
            assert (await stored(store, old)).replaced_by == (await stored(store, new)).id

    run(go())


def test_certificates_of_other_profiles_count_where_they_are_named(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.profile(name="other")
            await it.channel(name="other", profile="other")
            old, _ = await first(it, "r.example")
            body = csr(new_key(), "r.example")
            path = "/.well-known/est/other/simplereenroll"
            assert (await it.ask(path, body, certificate=old)).status == 401
            await it.channel(name="other", profile="other", profiles_accepted=["device"])
            assert (await it.ask(path, body, certificate=old)).status == 200

    run(go())


def test_names_that_were_made_of_a_manufacturers_certificate_are_made_again(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            acme = Manufacturer()
            await it.anchors("acme", acme.root, acme.intermediate)
            await it.channel(anchors=["acme"], certificate_names="profile", repeat_seconds=0)
            await it.profile(
                subject=[{"type": "CN", "value": "{csr.CN}"}],
                names={
                    "types": ["dns"],
                    "from_certificate": ["dns:{cert.serialNumber}.devices.example"],
                    "asked": False,
                },
            )
            idevid = acme.device(new_key(), subject(CN="Sensor", serialNumber="9"))
            old = (await it.enroll(csr(new_key()), certificate=idevid)).certificate
            # The certificate itself does not say the serial number, and yet its successors have the name.
            new = (await again(it, csr(new_key(), "9.devices.example"), old)).certificate
            newer = (await again(it, csr(new_key()), old)).certificate
            for each in (old, new, newer):
                san = each.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                assert san.get_values_for_type(x509.DNSName) == ["9.devices.example"]

    run(go())
