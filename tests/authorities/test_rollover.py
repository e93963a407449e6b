"""From one generation to the next: who trusts either root verifies what either has issued."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.clock import ManualClock
from certloom.pki.certificates import parse_certificate
from certloom.pki.pem import to_pem
from certloom.server.ca_pages import ca_file
from certloom.server.rooms import Rooms, open_rooms
from certloom.signing import SigningRefused
from tests.authorities.hierarchies import (
    ForeignCA,
    chains_of,
    done,
    generation,
    issue,
    put_profile,
    refusal,
    verify,
)
from tests.conftest import run
from tests.server.conftest import Installation, either, installation, settings

__all__ = ["either", "installation", "settings"]

DAY = 86_400
ROOT = "/authorities/root"


async def certificate(rooms: Rooms, name: str, number: int) -> bytes:
    found = (await generation(rooms, name, number)).certificate
    assert found is not None
    return found


async def roll_root(rooms: Rooms, clock: ManualClock, **wish: object) -> None:
    """Prepare and, in good time, activate the root's second generation."""
    await done(rooms, "POST", f"{ROOT}/generations", wish)
    clock.advance(30 * DAY)
    await done(rooms, "POST", f"{ROOT}/generations/2/activation", {})


async def roll_issuing(rooms: Rooms) -> None:
    await done(rooms, "POST", "/authorities/issuing/generations", {})
    await done(rooms, "POST", "/authorities/issuing/generations/2/activation", {})


@pytest.mark.parametrize("key", ["P-384", "rsa-2048"])
def test_either_root_verifies_the_leaves_of_either(
    either: Installation, clock: ManualClock, tmp_path: Path, key: str
) -> None:
    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        first = await issue(rooms, "leaf", "a.example.com")
        assert len(chains_of(rooms, first)) == 1
        await done(rooms, "POST", f"{ROOT}/generations", {"key": key})
        # Prepared: what is issued goes on as it was; the new root is given out, and verifies by a link.
        still = await issue(rooms, "leaf", "a.example.com")
        assert still.generation == 1
        own, linked = chains_of(rooms, still)
        assert len(linked) == len(own) + 1
        old, new = await certificate(rooms, "root", 1), await certificate(rooms, "root", 2)
        roots = ca_file(rooms.books, ["roots.pem"])
        assert roots is not None
        assert to_pem(old) in roots[0]
        assert to_pem(new) in roots[0]
        at = ("-attime", str(clock.now()))
        assert verify(tmp_path, still.der, own, [old], *at) == ""
        assert verify(tmp_path, still.der, linked, [new], *at) == ""

        clock.advance(30 * DAY)
        at = ("-attime", str(clock.now()))
        still = await issue(rooms, "leaf", "a.example.com")
        assert still.generation == 1
        await done(rooms, "POST", f"{ROOT}/generations/2/activation", {})
        await roll_issuing(rooms)
        second = await issue(rooms, "leaf", "b.example.com")
        assert second.generation == 2
        for leaf in (still, second):
            preferred = chains_of(rooms, leaf)[0]
            for trusted in (old, new):
                # The preferred chain is good for everybody, whichever root they have.
                assert verify(tmp_path, leaf.der, preferred, [trusted], *at) == ""
        plain = chains_of(rooms, second)[1]
        assert verify(tmp_path, second.der, plain, [new], *at) == ""
        assert verify(tmp_path, second.der, plain, [old], *at) != ""

        (new_with_old,) = [c for c in chains_of(rooms, second)[0] if c not in plain]
        link = x509.load_der_x509_certificate(new_with_old)
        assert link.issuer == link.subject
        link.verify_directly_issued_by(x509.load_der_x509_certificate(old))
        (found,) = [c for c in chains_of(rooms, still)[0] if c not in chains_of(rooms, still)[1]]
        old_with_new = x509.load_der_x509_certificate(found)
        # RFC 9810 section 4.4: OldWithNew is valid for as long as the old root is.
        before = x509.load_der_x509_certificate(old)
        assert old_with_new.not_valid_before_utc == before.not_valid_before_utc
        assert old_with_new.not_valid_after_utc == before.not_valid_after_utc
        assert old_with_new.public_key() == before.public_key()

    either.within(main, clock)


def test_every_certificate_of_every_chain_has_its_crl(
    either: Installation, clock: ManualClock, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        await done(rooms, "POST", f"{ROOT}/generations", {"key": "P-384"})
        clock.advance(30 * DAY)
        leaves = [await issue(rooms, "leaf", "a.example.com")]
        await done(rooms, "POST", f"{ROOT}/generations/2/activation", {})
        await roll_issuing(rooms)
        leaves.append(await issue(rooms, "leaf", "a.example.com"))
        await rooms.crls.refresh()
        rows = await rooms.store.read(lambda tx: tx.all("SELECT der FROM crls WHERE delta = 0"))
        crls = b"".join(x509.load_der_x509_crl(row[0]).public_bytes(Encoding.PEM) for row in rows)
        (tmp_path / "crls.pem").write_bytes(crls)
        lists = str(tmp_path / "crls.pem")
        how = ("-attime", str(clock.now()), "-crl_check_all", "-extended_crl", "-CRLfile", lists)
        for leaf in leaves:
            for number in (1, 2):
                root = await certificate(rooms, "root", number)
                assert verify(tmp_path, leaf.der, chains_of(rooms, leaf)[0], [root], *how) == ""

    either.within(main, clock)


def test_addresses_in_issued_certificates_mean_the_same_for_ever(
    installation: Installation, clock: ManualClock
) -> None:
    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        first = await issue(rooms, "leaf", "a.example.com")
        await roll_issuing(rooms)
        second = await issue(rooms, "leaf", "a.example.com")
        for leaf, number in ((first, 1), (second, 2)):
            parsed = x509.load_der_x509_certificate(leaf.der)
            access = parsed.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
            url = access[-1].access_location.value
            found = ca_file(rooms.books, url.removeprefix("http://pki.test/ca/").split("/"))
            assert found == (await certificate(rooms, "issuing", number), b"application/pkix-cert")
            points = parsed.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            (point,) = points
            assert point.full_name is not None
            where = "issuing" if number == 1 else "issuing/g2"
            assert point.full_name[0].value == f"http://pki.test/crl/{where}/{leaf.crl_shard}.crl"
            # ACME finds it by its authority key identifier, whichever generation issued it.
            identifier = parse_certificate(leaf.der).authority_key_identifier
            assert identifier is not None
            assert rooms.books.authority_by_key_identifier(identifier) == "issuing"
        current = ca_file(rooms.books, ["issuing.pem"])
        assert current is not None
        assert current[0] == to_pem(await certificate(rooms, "issuing", 2))
        for path in (
            ["issuing", "g3.crt"],
            ["issuing", "g01.crt"],
            ["issuing", "gx.crt"],
            ["x", "g1.crt"],
            ["a.b.c"],
        ):
            assert ca_file(rooms.books, path) is None

    installation.within(main, clock)


def test_a_root_is_issued_from_when_it_has_been_out_for_long_enough(
    either: Installation, clock: ManualClock
) -> None:
    async def main(rooms: Rooms) -> None:
        found = await done(rooms, "GET", f"{ROOT}/rollover")
        assert (found["step"], found["ready"]) == ("prepare", True)
        await done(rooms, "POST", f"{ROOT}/generations", {})
        why = await refusal(rooms, "POST", f"{ROOT}/generations", {})
        assert "is the next one already" in why
        found = await done(rooms, "GET", f"{ROOT}/rollover")
        assert (found["step"], found["generation"], found["ready"]) == ("activate", 2, False)
        assert "30 more days" in found["waits_for"][0]
        why = await refusal(rooms, "POST", f"{ROOT}/generations/2/activation", {})
        assert "30 more days" in why
        assert "no generation 3" in await refusal(rooms, "POST", f"{ROOT}/generations/3/activation", {})
        shown = await done(rooms, "POST", f"{ROOT}/generations/2/activation", {"force": True})
        assert shown["generation"] == 2
        why = await refusal(rooms, "POST", f"{ROOT}/generations/2/activation", {"force": True})
        assert "generation 2 is current" in why
        events = await rooms.store.read(
            lambda tx: tx.all("SELECT data FROM events WHERE kind = 'authority.activated'")
        )
        assert "30 more days" in events[0][0]

    either.within(main, clock)


def test_an_old_generation_is_retired_when_nothing_stands_on_it(
    either: Installation, clock: ManualClock
) -> None:
    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        leaf = await issue(rooms, "leaf", "a.example.com")
        await roll_root(rooms, clock)
        found = await done(rooms, "GET", f"{ROOT}/rollover")
        assert (found["step"], found["generation"], found["ready"]) == ("retire", 1, False)
        (below,) = found["generations"][0]["authorities"]
        assert (below["authority"], below["generation"]) == ("issuing", 1)
        await roll_issuing(rooms)
        last = await issue(rooms, "leaf", "b.example.com")
        path = "/authorities/issuing/generations/1/retirement"
        # The leaf has expired by now; another node may not have heard yet.
        assert leaf.not_after < clock.now()
        assert "within the last hour" in await refusal(rooms, "POST", path, {})
        clock.advance(3601)
        assert "the current generation" in await refusal(
            rooms, "POST", "/authorities/issuing/generations/2/retirement", {}
        )
        found = await done(rooms, "GET", "/authorities/issuing/rollover")
        assert (found["step"], found["ready"]) == ("retire", True)
        (counted,) = found["generations"][1]["certificates"]
        assert (counted["profile"], counted["certificates"]) == ("leaf", 1)
        assert last.generation == 2
        await done(rooms, "POST", path, {})
        assert "retired already" in await refusal(rooms, "POST", path, {"force": True})
        # Now nothing that is not retired stands on the old root: its links alone do not count.
        assert (await done(rooms, "GET", f"{ROOT}/rollover"))["ready"] is True
        await done(rooms, "POST", f"{ROOT}/generations/1/retirement", {})
        old, new = await certificate(rooms, "root", 1), await certificate(rooms, "root", 2)
        roots = ca_file(rooms.books, ["roots.pem"])
        assert roots is not None
        assert to_pem(new) in roots[0]
        assert to_pem(old) not in roots[0]
        (only,) = chains_of(rooms, last)
        assert len(only) == 1
        # What was issued under it is still found.
        identifier = parse_certificate(leaf.der).authority_key_identifier or b""
        assert rooms.books.authority_by_key_identifier(identifier) == "issuing"
        assert rooms.authorities.local["issuing"].crl_generations() == (2,)

    either.within(main, clock)


def test_what_still_has_valid_certificates_is_retired_only_by_force(
    installation: Installation, clock: ManualClock
) -> None:
    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        leaf = await issue(rooms, "leaf", "a.example.com")
        await roll_issuing(rooms)
        clock.advance(3601)
        path = "/authorities/issuing/generations/1/retirement"
        assert "1 valid certificates of profile leaf" in await refusal(rooms, "POST", path, {})
        await done(rooms, "POST", f"/certificates/{leaf.id}/hold", {})
        assert "1 valid certificates" in await refusal(rooms, "POST", path, {}), "a hold may be released"
        await done(rooms, "POST", path, {"force": True})

    installation.within(main, clock)


def test_a_next_generation_that_is_not_wanted_after_all_goes(
    installation: Installation, clock: ManualClock
) -> None:
    async def main(rooms: Rooms) -> None:
        await done(rooms, "POST", f"{ROOT}/generations", {})
        await put_profile(rooms, "leaf", "issuing")
        leaf = await issue(rooms, "leaf", "a.example.com")
        assert len(chains_of(rooms, leaf)) == 2
        await done(rooms, "POST", f"{ROOT}/generations/2/retirement", {})
        assert len(chains_of(rooms, leaf)) == 1
        made = await done(
            rooms, "POST", f"{ROOT}/generations", {"subject": "CN=Another Root", "key": "ed25519"}
        )
        assert (made["generation"], made["subject"], made["key"]) == (3, "CN=Another Root", "ed25519")

    installation.within(main, clock)


def test_a_root_with_a_new_name_is_linked_too(
    installation: Installation, clock: ManualClock, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        await roll_root(rooms, clock, subject="CN=Root Two,O=Example")
        await roll_issuing(rooms)
        await put_profile(rooms, "leaf", "issuing")
        leaf = await issue(rooms, "leaf", "a.example.com")
        at = ("-attime", str(clock.now()))
        for number in (1, 2):
            root = await certificate(rooms, "root", number)
            assert verify(tmp_path, leaf.der, chains_of(rooms, leaf)[0], [root], *at) == ""

    installation.within(main, clock)


def test_two_rollovers_in_a_row_still_verify_by_the_first_root(
    installation: Installation, clock: ManualClock, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        await roll_root(rooms, clock)
        await done(rooms, "POST", f"{ROOT}/generations", {})
        clock.advance(30 * DAY)
        await done(rooms, "POST", f"{ROOT}/generations/3/activation", {})
        await roll_issuing(rooms)
        await put_profile(rooms, "leaf", "issuing")
        leaf = await issue(rooms, "leaf", "a.example.com")
        at = ("-attime", str(clock.now()))
        for number in (1, 2, 3):
            root = await certificate(rooms, "root", number)
            ways = [verify(tmp_path, leaf.der, chain, [root], *at) for chain in chains_of(rooms, leaf)]
            assert "" in ways, (number, ways)

    installation.within(main, clock)


def test_the_next_generation_of_a_ca_under_a_stranger_is_asked_for_by_csr(
    either: Installation, clock: ManualClock, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        offline = ForeignCA("Offline Root", days=(-3650, 36500))
        body = {"name": "sub", "subject": "CN=Sub", "by_request": True}
        csr = (await done(rooms, "POST", "/authorities", body))["csr"]
        path = "/authorities/sub/certificate"
        await done(rooms, "POST", path, {"certificate": offline.sign_csr(csr, days=(-3650, 36500))})
        made = await done(rooms, "POST", "/authorities/sub/generations", {"key": "P-384"})
        assert made["certificate"] == ""
        assert (await done(rooms, "GET", "/authorities/sub"))["csr"] == made["csr"]
        found = await done(rooms, "GET", "/authorities/sub/rollover")
        assert (found["step"], found["ready"]) == ("install", False)
        force = "/authorities/sub/generations/2/activation"
        assert "waits for its certificate" in await refusal(rooms, "POST", force, {"force": True})
        await done(rooms, "POST", path, {"certificate": offline.sign_csr(made["csr"], days=(-3650, 36500))})
        assert (await done(rooms, "GET", "/authorities/sub"))["generation"] == 1
        await done(rooms, "POST", force, {})
        await put_profile(rooms, "sub", "sub")
        leaf = await issue(rooms, "sub", "a.example.com")
        assert leaf.generation == 2
        at = ("-attime", str(clock.now()))
        assert verify(tmp_path, leaf.der, chains_of(rooms, leaf)[0], [offline.der], *at) == ""

    either.within(main, clock)


def test_another_node_follows_without_a_restart(
    postgresql_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    from certloom.settings import Settings
    from certloom.settings.schema import Database
    from tests.server.conftest import LISTEN

    def node(name: str) -> Settings:
        return Settings(
            data_dir=str(tmp_path / name),
            public_http_url="http://pki.test",
            listen=LISTEN,
            database=Database(url=postgresql_url, connections=4),
        )

    async def main() -> None:
        one = await open_rooms(node("one"), clock)
        for file in (tmp_path / "one").iterdir():
            if file.name.endswith(".key"):
                (tmp_path / "two").mkdir(exist_ok=True)
                (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
                (tmp_path / "two" / file.name).chmod(0o600)
        two = await open_rooms(node("two"), clock)
        try:
            await put_profile(one, "leaf", "issuing")
            await two.refresh()
            assert (await issue(two, "leaf", "a.example.com")).generation == 1
            await roll_issuing(one)
            await two.refresh()
            leaf = await issue(two, "leaf", "b.example.com")
            assert leaf.generation == 2
            assert chains_of(two, leaf) == chains_of(one, leaf)
        finally:
            await two.close()
            await one.close()

    run(main())


def test_what_the_signer_forbids_is_said_and_nothing_is_stored(
    installation: Installation, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(rooms: Rooms) -> None:
        async def forbidden(*_: object) -> bytes:
            raise SigningRefused("signer-limit", "`certloom signer permit root` on its machine allows it")

        monkeypatch.setattr(rooms.signing, "ca_certificate", forbidden)
        why = await refusal(rooms, "POST", "/authorities/issuing/generations", {})
        assert "certloom signer permit root" in why
        found = await done(rooms, "GET", "/authorities/issuing/generations")
        assert len(found["items"]) == 1
        reserved = await rooms.store.read(lambda tx: tx.all("SELECT state FROM serials WHERE node = 'ca'"))
        assert [state for (state,) in reserved] == ["burned"]

    installation.within(main, clock)
