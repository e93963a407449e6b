"""What an operator can ask, asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certloom.audit import SYSTEM
from certloom.enrollment.asks import Ask
from certloom.pki.csr import parse_csr
from certloom.pki.identifiers import parse_dns
from certloom.policy.decisions import Requester
from certloom.server.operations import OperationError
from certloom.server.rooms import Rooms
from certloom.store.requests import EnrolmentRequest
from tests.server.conftest import Installation, ask

WEB = {
    "name": "web",
    "authority": "issuing",
    "keys": [{"type": "ec"}],
    "names": {"types": ["dns"], "dns": {"allow": ["**.corp.example"]}},
    "extended_key_usage": ["serverAuth"],
    "validity": {"default": "30d"},
    "lint": {"mode": "off"},
}


async def enrol(rooms: Rooms, name: str, profile: str = "web") -> EnrolmentRequest:
    """Ask the pipeline for a certificate, as a protocol would."""
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    return await rooms.enrollment.submit(
        Ask(
            protocol="test",
            channel="test",
            profile=profile,
            requester=Requester("system", "test"),
            csr=parse_csr(csr),
            identifiers=(parse_dns(name),),
            origin=SYSTEM,
        )
    )


async def refused(rooms: Rooms, operation: str, /, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(OperationError) as caught:
        await ask(rooms, operation, **arguments)
    return caught.value.code, str(caught.value)


def test_apply_makes_what_is_declared_and_a_second_time_changes_nothing(either: Installation) -> None:
    document = {
        "authorities": [
            {"name": "lab-root", "subject": "CN=Lab Root", "days": 100, "crl_shards": 1},
            {"name": "lab", "subject": "CN=Lab CA,O=Lab", "issuer": "lab-root", "key": "P-384"},
        ],
        "profiles": [WEB, {**WEB, "name": "lab", "authority": "lab"}],
        "channels": [{"protocol": "acme", "name": "corp", "profiles": ["web", "lab"], "eab_required": True}],
        "credentials": [{"id": "ci", "channel": "corp", "names": ["**.corp.example"], "preauthorized": True}],
    }

    async def main(rooms: Rooms) -> None:
        first = await ask(rooms, "apply", document=document)
        assert [(c["kind"], c["name"], c["change"]) for c in first["changes"]] == [
            ("authority", "lab-root", "created"),
            ("authority", "lab", "created"),
            ("profile", "web", "created"),
            ("profile", "lab", "created"),
            ("channel", "corp", "created"),
            ("credential", "ci", "created"),
        ]
        assert [s["id"] for s in first["secrets"]] == ["ci"]
        second = await ask(rooms, "apply", document=document)
        assert {c["change"] for c in second["changes"]} == {"unchanged"}
        assert second["secrets"] == []
        request = await enrol(rooms, "a.corp.example", "lab")
        shown = await ask(rooms, "certificate.show", certificate=str(request.certificate_id))
        assert (shown["authority"], shown["names"]) == ("lab", ["dns:a.corp.example"])

    either.within(main)


def test_a_changed_profile_gets_a_new_version_and_the_old_one_stays(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        await ask(rooms, "apply", document={"profiles": [WEB]})
        changed = {**WEB, "validity": {"default": "20d"}}
        result = await ask(rooms, "apply", document={"profiles": [changed]})
        assert result["changes"][0]["change"] == "changed"
        assert result["changes"][0]["details"][0] == "version 2"
        assert result["changes"][0]["details"][1].startswith("validity: ")
        assert (await ask(rooms, "profile.show", name="web"))["validity"]["default"] == 20 * 86400
        assert (await ask(rooms, "profile.show", name="web", version=1))["validity"]["default"] == 30 * 86400

    installation.within(main)


def test_a_dry_run_says_what_would_change_and_changes_nothing(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        document = {
            "profiles": [WEB],
            "credentials": [{"id": "ci", "channel": "default"}],
            "authorities": [{"name": "lab", "subject": "CN=x"}],
        }
        result = await ask(rooms, "apply", document=document, dry_run=True)
        assert [c["change"] for c in result["changes"]] == ["created"] * 3
        assert result["secrets"] == []
        assert (await refused(rooms, "profile.show", name="web"))[0] == "not-found"
        assert len(await ask(rooms, "authority.list")) == 2

    either.within(main)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"profile": []}, "unknown field `profile`"),
        ({"profiles": [{**WEB, "colour": 1}]}, "`$.profiles[0].colour`"),
        ({"profiles": [{**WEB, "authority": "none"}]}, "no authority 'none' - at `$.profiles[0].authority`"),
        ({"profiles": [WEB, WEB]}, "declares 'web' twice"),
        ({"channels": [{"protocol": "acme", "name": "c", "profiles": ["none"]}]}, "no profile 'none'"),
        ({"channels": [{"protocol": "acme", "name": "C", "profiles": ["device"]}]}, "`$.channels[0].name`"),
        (
            {"channels": [{"protocol": "acme", "name": "c", "profiles": ["device"], "challenges": ["x"]}]},
            "http-01, tls-alpn-01 - at `$.channels[0].challenges`",
        ),
        (
            {"channels": [{"protocol": "acme", "name": "c", "profiles": ["device"], "caa": True}]},
            "`$.channels[0].caa_identities`",
        ),
        ({"credentials": [{"id": "c", "channel": "none"}]}, "no ACME channel 'none'"),
        ({"credentials": [{"id": "c", "channel": "default", "names": ["a..b"]}]}, "'a..b'"),
        ({"credentials": [{"id": "c", "channel": "default", "preauthorized": True}]}, "for which names"),
        ({"authorities": [{"name": "x", "subject": "nonsense"}]}, "`$.authorities[0].subject`"),
        ({"authorities": [{"name": "x", "subject": "CN=x", "issuer": "y"}]}, "no authority 'y'"),
        ({"authorities": [{"name": "x", "subject": "CN=x", "key": "dsa"}]}, "`$.authorities[0]`"),
        ({"authorities": [{"name": "issuing", "subject": "CN=x"}]}, "cannot change"),
    ],
)
def test_apply_refuses_the_whole_of_a_document_with_one_mistake(
    installation: Installation, document: dict[str, Any], problem: str
) -> None:
    async def main(rooms: Rooms) -> None:
        good = {"profiles": [{**WEB, "name": "good"}, *document.get("profiles", [])]}
        _, message = await refused(rooms, "apply", document={**document, **good})
        assert problem.replace("profiles[0]", "profiles[1]") in message
        assert (await refused(rooms, "profile.show", name="good"))[0] == "not-found"

    installation.within(main)


def test_a_declared_credential_changes_its_terms_but_keeps_its_key(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        declared = {"id": "ci", "channel": "default", "names": ["a.example"]}
        await ask(rooms, "apply", document={"credentials": [declared]})
        key = await rooms.store.read(lambda tx: rooms.credentials.eab(tx, "ci", "default"))
        expires = datetime(2100, 1, 1, tzinfo=UTC)
        changed = {**declared, "names": ["b.example"], "expires": expires.isoformat()}
        result = await ask(rooms, "apply", document={"credentials": [changed]})
        assert result["changes"][0]["change"] == "changed"
        assert result["secrets"] == []
        now = await rooms.store.read(lambda tx: rooms.credentials.eab(tx, "ci", "default"))
        assert key is not None
        assert now is not None
        assert now.mac_key == key.mac_key
        assert now.names == ("b.example",)

    installation.within(main)


def test_certificates_are_found_revoked_and_marked(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        await ask(rooms, "apply", document={"profiles": [WEB]})
        for name in ("a.corp.example", "b.corp.example"):
            await enrol(rooms, name)
        both = await ask(rooms, "certificate.list")
        assert [c["names"] for c in both] == [["dns:b.corp.example"], ["dns:a.corp.example"]]
        (b,) = await ask(rooms, "certificate.list", name="B.corp.example")
        assert b == both[0]
        marked = await ask(rooms, "certificate.replace", certificate=b["serial"], why="weak")
        assert marked["state"] == "to be replaced"
        unmarked = await ask(rooms, "certificate.replace", certificate=str(b["id"]), undo=True)
        assert unmarked["state"] == "valid"
        revoked = await ask(rooms, "certificate.revoke", certificate=b["serial"], reason="keyCompromise")
        assert (revoked["state"], revoked["reason"]) == ("revoked", "keyCompromise")
        again = await refused(rooms, "certificate.revoke", certificate=b["serial"])
        assert again[0] == "already-revoked"
        shown = await ask(rooms, "certificate.show", certificate=b["serial"].upper())
        blocked = await ask(rooms, "key.block", spki_sha256=shown["spki_sha256"], why="leaked")
        assert blocked["was_blocked"] is True  # a compromised key is blocked with the revocation
        a = await ask(rooms, "certificate.show", certificate="1")
        blocked = await ask(rooms, "key.block", spki_sha256=a["spki_sha256"], why="leaked")
        assert (blocked["was_blocked"], blocked["unrevoked_certificates"]) == (False, [a["id"]])

    either.within(main)


def test_what_is_not_there_or_makes_no_sense_is_refused(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        assert (await refused(rooms, "certificate.show", certificate="99"))[0] == "unknown-certificate"
        assert (await refused(rooms, "certificate.show", certificate="ab" * 16))[0] == "unknown-certificate"
        assert (await refused(rooms, "certificate.show", certificate="x"))[0] == "bad-arguments"
        assert (await refused(rooms, "certificate.revoke", certificate="1", reason="cACompromise"))[0] == (
            "bad-revocation-reason"
        )
        assert (await refused(rooms, "request.approve", id="none"))[0] == "unknown-request"
        assert (await refused(rooms, "credential.revoke", id="none"))[0] == "not-found"
        assert (await refused(rooms, "credential.create", channel="none"))[0] == "not-found"
        assert (await refused(rooms, "credential.create", colour="red"))[0] == "bad-arguments"
        assert (await refused(rooms, "key.block", spki_sha256="12", why="x"))[0] == "bad-arguments"
        assert (await refused(rooms, "backup", path="relative.tar"))[0] == "bad-arguments"
        assert (await refused(rooms, "nonsense"))[0] == "unknown-operation"

    installation.within(main)


def test_requests_are_approved_and_denied(either: Installation) -> None:
    profile = {**WEB, "name": "careful", "approval": {"approvers": 1}}

    async def main(rooms: Rooms) -> None:
        await ask(rooms, "apply", document={"profiles": [profile]})
        first, second = [await enrol(rooms, f"{n}.corp.example", "careful") for n in "ab"]
        waiting = await ask(rooms, "request.list")
        assert [(r["id"], r["state"]) for r in waiting] == [
            (first.id, "awaiting_approval"),
            (second.id, "awaiting_approval"),
        ]
        assert (await ask(rooms, "request.approve", id=first.id))["state"] == "approved"
        denied = await ask(rooms, "request.deny", id=second.id, message="not ours")
        assert denied["state"] == "denied"
        assert (await refused(rooms, "request.approve", id=second.id))[0] == "not-waiting"
        shown = await ask(rooms, "request.show", id=second.id)
        assert shown["approvals"][0]["actor"] == "local:tester"
        assert shown["reasons"][0]["message"] == "not ours"

    either.within(main)


def test_credentials_are_made_listed_and_taken_out_of_use(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        made = await ask(rooms, "credential.create", names=["a.example"], uses=1, seconds=60)
        listed = await ask(rooms, "credential.list")
        assert made["id"] in [c["id"] for c in listed]
        assert made["secret"] not in str(listed)
        await ask(rooms, "credential.revoke", id=made["id"])
        assert await rooms.store.read(lambda tx: rooms.credentials.eab(tx, made["id"], "default")) is None
        token = await ask(rooms, "credential.create", token=True)
        assert token["secret"].startswith("clt_")

    installation.within(main)


def test_the_audit_log_tells_who_did_it_and_is_intact(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        await ask(rooms, "credential.create")
        events = await rooms.store.scan(
            lambda tx: tx.all("SELECT kind FROM events WHERE actor = 'local:tester' ORDER BY id")
        )
        assert events == [("credential.created",)]
        verdict = await ask(rooms, "audit.verify")
        assert verdict["intact"] is True
        assert verdict["checked"] == verdict["head"]["sequence"] > 5
        await rooms.store.write(lambda tx: tx.run("UPDATE events SET actor = 'nobody' WHERE sequence = 3"))
        verdict = await ask(rooms, "audit.verify")
        assert verdict["intact"] is False
        assert verdict["faults"][0]["sequence"] == 3

    either.within(main)
