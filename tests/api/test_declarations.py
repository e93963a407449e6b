"""Declarations: what a document says there shall be, there is; all of it or nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from certloom.server.rooms import Rooms
from tests.server.conftest import Installation, ask, refused
from tests.server.enrolling import WEB, enrol


async def apply(rooms: Rooms, document: dict[str, Any], *, dry_run: bool = False) -> Any:
    return await ask(rooms, "POST", "/declarations", {"document": document, "dry_run": dry_run})


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
        first = await apply(rooms, document)
        assert [(c["kind"], c["name"], c["change"]) for c in first["changes"]] == [
            ("authority", "lab-root", "created"),
            ("authority", "lab", "created"),
            ("profile", "web", "created"),
            ("profile", "lab", "created"),
            ("channel", "corp", "created"),
            ("credential", "ci", "created"),
        ]
        assert [s["id"] for s in first["secrets"]] == ["ci"]
        assert first["dry_run"] is False
        second = await apply(rooms, document)
        assert {c["change"] for c in second["changes"]} == {"unchanged"}
        assert second["secrets"] == []
        request = await enrol(rooms, "a.corp.example", "lab")
        shown = await ask(rooms, "GET", f"/certificates/{request.certificate_id}")
        assert (shown["authority"], shown["names"]) == ("lab", ["dns:a.corp.example"])

    either.within(main)


def test_a_changed_profile_gets_a_new_version_and_the_old_one_stays(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        await apply(rooms, {"profiles": [WEB]})
        changed = {**WEB, "validity": {"default": "20d"}}
        result = await apply(rooms, {"profiles": [changed]})
        assert result["changes"][0]["change"] == "changed"
        assert result["changes"][0]["details"][0] == "version 2"
        assert result["changes"][0]["details"][1].startswith("validity: ")
        assert (await ask(rooms, "GET", "/profiles/web"))["profile"]["validity"]["default"] == 20 * 86400
        first = await ask(rooms, "GET", "/profiles/web/versions/1")
        assert first["profile"]["validity"]["default"] == 30 * 86400

    installation.within(main)


def test_a_dry_run_says_what_would_change_and_changes_nothing(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        document = {
            "profiles": [WEB],
            "credentials": [{"id": "ci", "channel": "default"}],
            "authorities": [{"name": "lab", "subject": "CN=x"}],
        }
        result = await apply(rooms, document, dry_run=True)
        assert [c["change"] for c in result["changes"]] == ["created"] * 3
        assert result["secrets"] == []
        assert (await refused(rooms, "GET", "/profiles/web"))[0] == "not-found"
        assert len((await ask(rooms, "GET", "/authorities"))["items"]) == 2

    either.within(main)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"profile": []}, "unknown field `profile`"),
        ({"profiles": [{**WEB, "colour": 1}]}, "`$.profiles[0].colour`"),
        ({"profiles": [{**WEB, "authority": "none"}]}, "no authority 'none' - at `$.profiles[0].authority`"),
        ({"profiles": [WEB, WEB]}, "declares 'web' twice"),
        ({"profiles": [{**WEB, "name": "ca"}]}, "'ca' stands for CA certificates in the inventory"),
        ({"profiles": [{**WEB, "name": "ocsp"}]}, "'ocsp' stands for OCSP responders' certificates"),
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
        ({"credentials": [{"id": "c", "channel": "none"}]}, "no channel 'none'"),
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
        _, message = await refused(rooms, "POST", "/declarations", {"document": {**document, **good}})
        assert problem.replace("profiles[0]", "profiles[1]") in message
        assert (await refused(rooms, "GET", "/profiles/good"))[0] == "not-found"

    installation.within(main)


def test_a_declared_credential_changes_its_terms_but_keeps_its_key(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        declared = {"id": "ci", "channel": "default", "names": ["a.example"]}
        await apply(rooms, {"credentials": [declared]})
        key = await rooms.store.read(lambda tx: rooms.credentials.eab(tx, "ci", "default"))
        expires = datetime(2100, 1, 1, tzinfo=UTC)
        changed = {**declared, "names": ["b.example"], "expires": expires.isoformat()}
        result = await apply(rooms, {"credentials": [changed]})
        assert result["changes"][0]["change"] == "changed"
        assert result["secrets"] == []
        now = await rooms.store.read(lambda tx: rooms.credentials.eab(tx, "ci", "default"))
        assert key is not None
        assert now is not None
        assert now.mac_key == key.mac_key
        assert now.names == ("b.example",)

    installation.within(main)
