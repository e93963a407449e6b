"""Delegated responders: what their certificates say, how they are renewed, and what is left of a crash."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as stranger
from cryptography.x509.oid import ExtendedKeyUsageOID

from certloom.authorities.delegates import _subject, _token
from certloom.authorities.lint import lint_certificate, lint_ocsp
from certloom.authorities.serials import burn_abandoned
from certloom.clock import ManualClock
from certloom.pki.certificates import parse_certificate
from certloom.pki.keys import facts_of, public_key
from certloom.pki.names import format_name, parse_name
from certloom.pki.signatures import algorithm_for, verify
from certloom.status.ocsp_responders import LIFE
from certloom.store import Store, authorities, certificates, delegates, open_store
from tests.conftest import run
from tests.enrollment.test_pipeline import ALICE
from tests.pki.ocsp_requests import request
from tests.status.ocsp_desk import Desk, desk, responder_of

DAY = 86_400


async def rows(d: Desk, authority: str = "issuing") -> list[tuple[str, int]]:
    found = await d.c.store.read(
        lambda tx: tx.all(
            "SELECT key_id, not_after FROM delegates WHERE authority = ? ORDER BY created", (authority,)
        )
    )
    return [(row[0], row[1]) for row in found]


async def burned(store: Store) -> int:
    row = await store.read(lambda tx: tx.one("SELECT count(*) FROM serials WHERE state = 'burned'"))
    assert row is not None
    return int(row[0])


def test_a_responders_certificate_is_what_rfc_6960_asks(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await d.responder.keep()
            for name in ("issuing", "root"):
                ca = x509.load_der_x509_certificate(d.issuer(name).certificate)
                ((key_id, _),) = await rows(d, name)
                newest = partial(delegates.newest, authority=name, generation=1, purpose="ocsp")
                found = await store.read(newest)
                assert found is not None
                certificate = x509.load_der_x509_certificate(found[0].certificate)
                certificate.verify_directly_issued_by(ca)
                say = certificate.extensions
                assert list(say.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
                    ExtendedKeyUsageOID.OCSP_SIGNING
                ]
                no_check = say.get_extension_for_class(x509.OCSPNoCheck)
                assert not no_check.critical
                assert no_check.value.public_bytes() == b"\x05\x00"
                assert say.get_extension_for_class(x509.KeyUsage).value.digital_signature
                assert certificate.not_valid_after_utc.timestamp() == clock.now() + LIFE
                assert found[1].id == key_id
                assert lint_certificate(found[0].certificate, "warning") == []
                # It is in the inventory, and its serial is no longer reserved.
                serial = parse_certificate(found[0].certificate).serial
                row = await store.read(partial(certificates.by_serial, authority=name, serial=serial))
                assert row is not None
                assert (row.profile, row.profile_version) == ("ocsp", 0)
                assert (await d.ask(serial, name=name)).only.kind == "good"
            left = await store.read(lambda tx: tx.one("SELECT count(*) FROM serials WHERE node = 'node'"))
            assert left is not None

    run(scenario())


@pytest.mark.parametrize("kind", ["P-384", "rsa-2048", "ed25519", "ml-dsa-44"])
def test_a_responders_key_is_of_the_kind_that_the_authority_says(
    store: Store, clock: ManualClock, kind: str
) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            await d.set(ocsp_key=kind)
            body = (await d.raw(request(d.ids([row.serial])))).body
            found = await store.read(lambda tx: delegates.newest(tx, "issuing", 1, "ocsp"))
            assert found is not None
            facts = parse_certificate(found[0].certificate)
            public = facts_of(facts.spki)
            assert public.key_type == kind
            said = stranger.load_der_ocsp_response(body)
            verify(
                public_key(public), algorithm_for(public_key(public)), said.signature, said.tbs_response_bytes
            )
            assert lint_ocsp(body, "warning") == []

    run(scenario())


def test_another_kind_of_key_is_taken_when_the_responder_is_revoked(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await d.responder.keep()
            await d.set(ocsp_key="P-384")
            await d.responder.keep()
            before = await store.read(lambda tx: delegates.newest(tx, "issuing", 1, "ocsp"))
            assert before is not None
            serial = parse_certificate(before[0].certificate).serial
            row = await store.read(lambda tx: certificates.by_serial(tx, "issuing", serial))
            assert row is not None
            clock.advance(1)
            await d.c.revoker.revoke(row.id, 5, ALICE)
            await d.responder.keep()
            after = await store.read(lambda tx: delegates.newest(tx, "issuing", 1, "ocsp"))
            assert after is not None
            kinds = [facts_of(parse_certificate(one[0].certificate).spki).key_type for one in (before, after)]
            assert kinds == ["P-256", "P-384"]

    run(scenario())


def test_a_responder_is_renewed_at_half_of_its_life_and_kept_until_it_ends(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await d.responder.keep()
            ((first, ends),) = await rows(d)
            clock.advance(LIFE // 2 - 10)
            await d.responder.keep()
            assert len(await rows(d)) == 1
            row = await d.issue()
            assert (await d.ask(row.serial)).only.kind == "good"
            clock.advance(20)
            await d.responder.keep()
            (same, _), (second, later) = await rows(d)
            assert same == first != second
            assert later == clock.now() + LIFE
            answer = await d.ask(row.serial, nonce=b"1")
            assert answer.certificate is not None
            newest = await store.read(lambda tx: delegates.newest(tx, "issuing", 1, "ocsp"))
            assert newest is not None
            assert answer.certificate.public_bytes(Encoding.DER) == newest[0].certificate
            # The old one's row in the inventory says what came after it: nobody waits for a successor.
            chain = await store.read(
                lambda tx: tx.all(
                    "SELECT id, replaced_by FROM certificates"
                    " WHERE profile = 'ocsp' AND authority = 'issuing' ORDER BY id"
                )
            )
            assert chain[0][1] == chain[1][0]
            clock.advance(ends - clock.now() + DAY + 1)
            await d.responder.keep()
            assert first not in [id for id, _ in await rows(d)]
            assert await store.read(lambda tx: authorities.key(tx, first)) is None
            kinds = await store.read(lambda tx: tx.all("SELECT kind FROM events"))
            assert ("ocsp_responder.deleted",) in kinds

    run(scenario())


def test_no_answer_outlives_who_signed_it(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            await d.ask(row.serial)
            ((_, ends),) = await rows(d)
            clock.advance(ends - clock.now() - 1000)  # and nobody has renewed it
            said = await d.ask(row.serial, nonce=b"1")
            assert said.certificate is not None
            assert said.next_update == said.certificate.not_valid_after_utc.strftime("%Y%m%d%H%M%SZ")
            await d.set(ocsp_seconds=30 * DAY)
            await d.responder.keep()
            assert (await rows(d))[-1][1] == clock.now() + 90 * DAY

    run(scenario())


def test_nodes_that_renew_at_once_agree_on_one_responder(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            others = [responder_of(d.c, clock, node=f"node-{n}") for n in range(3)]
            await asyncio.gather(*(one.keep() for one in (d.responder, *others)))
            assert len(await rows(d)) == 1
            ((key_id, _),) = await rows(d)
            source = d.responder._sources.current("issuing")
            assert source is not None
            for one in (d.responder, *others):
                assert (await one.responders.get(source)).key_id == key_id
            # What the losers had signed under is never used again.
            recorded = await store.read(
                lambda tx: tx.one("SELECT count(*) FROM certificates WHERE profile = 'ocsp'")
            )
            assert recorded == (2,)
            reserved = await store.read(
                lambda tx: tx.one(
                    "SELECT count(*) FROM serials WHERE state = 'reserved' AND node LIKE 'node-%'"
                )
            )
            assert reserved == (0,)

    run(scenario())


def test_a_revoked_responder_signs_nothing_more(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            said = await d.ask(row.serial)
            assert said.certificate is not None
            number = said.certificate.serial_number
            serial = number.to_bytes(16, "big")
            found = await store.read(lambda tx: certificates.by_serial(tx, "issuing", serial))
            assert found is not None
            clock.advance(1)
            await d.c.revoker.revoke(found.id, 1, ALICE)
            await d.responder.keep()
            again = await d.ask(row.serial)
            assert again.certificate is not None
            assert again.certificate.serial_number != number

    run(scenario())


def test_a_retired_generation_gets_no_responder(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            await store.write(
                lambda tx: tx.run(
                    "UPDATE authority_generations SET state = 'retired' WHERE authority = 'issuing'"
                )
            )
            # Retired a moment ago by another node, which this one has not heard of.
            assert (await d.ask(row.serial)).status == "internalError"
            assert await rows(d) == []
            # Its serial was taken, and nothing comes of it.
            assert await burned(store) == 1

    run(scenario())


_KILLED = """
import asyncio, os, signal, sys
from certloom.clock import ManualClock
from certloom.store import open_store
from certloom.signing.service import Service
from tests.core import SIGNER_KEY, core
from tests.status.ocsp_desk import responder_of

class Deadly(Service):
    async def certificate(self, key_id, issuer, template):
        await super().certificate(key_id, issuer, template)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    clock = ManualClock(int(sys.argv[2]))
    store = await open_store(sys.argv[1], clock=clock)
    async with core(store, clock) as c:
        deadly = Deadly(SIGNER_KEY, clock)
        deadly._sealed.update(c.signing._sealed)
        await responder_of(c, clock, deadly).keep()

asyncio.run(main())
"""


def test_a_process_killed_in_mid_renewal_leaves_everything_as_it_was(
    database_url: str, clock: ManualClock
) -> None:
    async def before() -> int:
        store = await open_store(database_url, clock=clock)
        async with desk(store, clock) as d:
            await d.responder.keep()
            row = await d.issue()
        await store.close()
        return row.id

    async def after(id: int) -> None:
        store = await open_store(database_url, clock=clock)
        async with desk(store, clock) as d:
            assert len(await rows(d)) == 1
            # Signed and shown to nobody: its serial is burned, and answered as revoked.
            reserved = await store.read(
                lambda tx: tx.all("SELECT serial FROM serials WHERE node = 'node' AND state = 'reserved'")
            )
            clock.advance(3601)
            assert await burn_abandoned(store, clock, alone=False) == len(reserved) > 0
            row = await store.read(lambda tx: certificates.get(tx, id))
            assert row is not None
            assert (await d.ask(row.serial, nonce=b"1")).only.kind == "good"
            assert {(await d.ask(serial)).only.kind for (serial,) in reserved} == {"revoked"}
            await d.responder.keep()
            assert len(await rows(d)) == 2
            assert (await d.ask(row.serial, nonce=b"2")).only.kind == "good"
        await store.close()

    id = run(before())
    clock.advance(LIFE // 2 + 1)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, database_url, str(clock.now())],
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    run(after(id))


def test_a_responder_is_called_after_its_ca_within_the_cas_own_subtree() -> None:
    assert (
        format_name(_subject(parse_name("CN=Issuing 7,O=Example,C=DE"), "OCSP"))
        == "CN=Issuing 7 OCSP,O=Example,C=DE"
    )
    long = _subject(parse_name(f"CN={'x' * 64}"), "OCSP")
    assert len(long.attributes[0][1]) == 64
    assert format_name(_subject(parse_name("O=Example"), "OCSP")) == "CN=CA OCSP,O=Example"


def test_a_responders_key_is_made_in_the_token_of_the_cas_key() -> None:
    uri = "pkcs11:token=hsm;object=issuing-1;id=%01%02;type=private;serial=7?module-name=softhsm2"
    assert _token(uri) == "pkcs11:token=hsm;serial=7?module-name=softhsm2"
