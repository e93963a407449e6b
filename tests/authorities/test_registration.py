"""Registration authorities: made once, renewed in time, replaced when revoked, verified by strangers."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from certloom.audit import SYSTEM
from certloom.authorities.lint import lint_certificate
from certloom.authorities.registration import CMC_CA, CMC_RA, KEY_GENERATION, RegistrationAuthorities
from certloom.clock import ManualClock
from certloom.enrollment.revoke import Revoker
from certloom.pki import signatures
from certloom.pki.certificates import parse_certificate
from certloom.pki.keys import facts_of, public_key
from certloom.pki.pem import to_pem
from certloom.store import Store
from certloom.store import certificates as certificate_statements
from tests.conftest import run
from tests.status.ocsp_desk import Desk, desk

_DAY = 86_400
NOW = 1_790_000_000


def registration(d: Desk) -> RegistrationAuthorities:
    names = [row.name for row in d.c.books.authority_rows()]
    return RegistrationAuthorities(
        d.c.store,
        d.c.clock,
        d.c.signing,
        "node",
        lambda: {name: d.c.local(name) for name in names},
        d.c.books.generations,
    )


def test_what_it_signs_verifies_with_a_certificate_that_says_what_it_is(store: Store, tmp_path: Path) -> None:
    clock = ManualClock(NOW)

    async def go() -> None:
        async with desk(store, clock) as d:
            ras = registration(d)
            ra = await ras.of("issuing")
            facts = parse_certificate(ra.certificate)
            assert facts.extended_key_usage == (CMC_CA, CMC_RA, KEY_GENERATION)
            assert facts.key_usage == ("digitalSignature",)
            signature = await ras.sign(ra, b"octets")
            signatures.verify(public_key(facts_of(ra.spki)), ra.algorithm, signature, b"octets")
            issuer = d.c.books.authority_row("issuing").certificate
            (tmp_path / "ca.pem").write_bytes(to_pem(issuer))
            (tmp_path / "ra.pem").write_bytes(to_pem(ra.certificate))
            command = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-partial_chain"]
            subprocess.run(
                [*command, "-CAfile", tmp_path / "ca.pem", tmp_path / "ra.pem"],
                check=True,
                capture_output=True,
            )
            findings = [f for f in lint_certificate(ra.certificate) if f.severity in ("ERROR", "FATAL")]
            assert not findings

    run(go())


def test_two_nodes_that_need_one_at_once_use_the_same(store: Store) -> None:
    clock = ManualClock(NOW)

    async def go() -> None:
        async with desk(store, clock) as d:
            one, other = await asyncio.gather(registration(d).of("issuing"), registration(d).of("issuing"))
            assert one.certificate == other.certificate

    run(go())


def test_it_is_renewed_when_half_its_life_is_over(store: Store) -> None:
    clock = ManualClock(NOW)

    async def go() -> None:
        async with desk(store, clock) as d:
            ras = registration(d)
            before = await ras.of("issuing")
            clock.advance(44 * _DAY)
            await ras.keep_all()
            assert (await ras.of("issuing")).certificate == before.certificate
            clock.advance(2 * _DAY)
            await ras.keep_all()
            after = await ras.of("issuing")
            assert after.certificate != before.certificate
            assert after.not_after > before.not_after

    run(go())


def test_one_that_is_revoked_signs_no_more(store: Store) -> None:
    clock = ManualClock(NOW)

    async def go() -> None:
        async with desk(store, clock) as d:
            ras = registration(d)
            before = await ras.of("issuing")
            stored = await store.read(
                lambda tx: certificate_statements.by_serial(tx, "issuing", before.serial)
            )
            assert stored is not None
            assert stored.profile == "ra"
            await Revoker(store, d.c.clock).revoke(stored.id, 1, SYSTEM)
            await ras.keep_all()
            after = await ras.of("issuing")
            assert after.key_id != before.key_id

    run(go())
