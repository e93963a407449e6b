"""Trust anchors over the API and in declarations: made, seen, changed, used, deleted; and by whom not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certloom.clock import ManualClock
from certloom.identity.principals import Principal, local
from certloom.pki.pem import to_pem
from certloom.server.rooms import Rooms
from tests.api.test_webhooks import serving
from tests.conftest import run
from tests.enrollment.people import person
from tests.protocols.est.lab import Manufacturer, der_of, new_key, subject

ROOT = local("root")
READER = person("reader", "auditor")
APPROVER = person("bob", "approver")
PATH = "/trust-anchors/acme"


def pem(certificate: Any) -> str:
    return to_pem(der_of(certificate)).decode()


def body(*certificates: str, **more: Any) -> dict[str, Any]:
    return {"name": "acme", "description": "Acme's devices", "certificates": list(certificates), **more}


def test_a_set_is_made_seen_changed_and_deleted(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    acme = Manufacturer()

    async def go() -> None:
        async with serving(database_url, tmp_path, clock) as (client, rooms):
            made = await client(ROOT, "PUT", PATH, body(pem(acme.root)), if_none_match="*")
            assert made.status == 201
            shown = json.loads((await client(READER, "GET", PATH)).body)
            (only,) = shown["anchors"]
            assert only["subject"] == "CN=Acme Root"
            assert rooms.books.anchors("acme") == (der_of(acme.root),)
            tag = made.headers["etag"]
            two = body(pem(acme.root), pem(acme.intermediate))
            assert (await client(ROOT, "PUT", PATH, two, if_match='"stale"')).status == 412
            assert (await client(ROOT, "PUT", PATH, two, if_match=tag)).status == 200
            assert len(rooms.books.anchors("acme")) == 2
            listed = json.loads((await client(READER, "GET", "/trust-anchors")).body)["items"]
            assert [item["name"] for item in listed] == ["acme"]
            assert (await client(ROOT, "DELETE", PATH, if_match="*")).status == 204
            assert (await client(ROOT, "GET", PATH)).status == 404
            assert rooms.books.anchors("acme") == ()
            kinds = await kinds_of(rooms)
            assert kinds == ["trust-anchors.created", "trust-anchors.changed", "trust-anchors.deleted"]

    run(go())


async def kinds_of(rooms: Rooms) -> list[str]:
    rows = await rooms.store.read(
        lambda tx: tx.all("SELECT kind FROM events WHERE kind LIKE 'trust-anchors.%' ORDER BY id")
    )
    return [row[0] for row in rows]


def test_what_is_no_cas_certificate_is_refused_with_its_place(tmp_path: Path, clock: ManualClock) -> None:
    acme = Manufacturer()
    leaf = acme.device(new_key(), subject(CN="d"))
    good = pem(acme.root)

    async def go() -> None:
        async with serving(f"sqlite:///{tmp_path / 'c.db'}", tmp_path, clock) as (client, rooms):
            for wrong, place in (
                (body("hello"), "$.certificates[0]"),
                (body(good, pem(leaf)), "$.certificates[1]"),
                (body(good, good), "$.certificates[1]"),
                (body(good + good), "$.certificates[0]"),
                (body(good.replace("M", "!")), "$.certificates[0]"),
                (body(), "$.certificates"),
                (body(*[good] * 101), "$.certificates"),
                (body(good, name="other"), "$.name"),
                (body("x" * 70_000), "$.certificates[0]"),
            ):
                answer = await client(ROOT, "PUT", PATH, wrong, if_none_match="*")
                assert answer.status in (400, 422), answer
                assert place in answer.body.decode(), (place, answer.body)
            assert rooms.books.reading.anchors == {}

    run(go())


@pytest.mark.parametrize("who", [READER, APPROVER])
def test_only_who_may_change_them_does(tmp_path: Path, clock: ManualClock, who: Principal) -> None:
    async def go() -> None:
        async with serving(f"sqlite:///{tmp_path / 'c.db'}", tmp_path, clock) as (client, rooms):
            made = await client(who, "PUT", PATH, body(pem(Manufacturer().root)), if_none_match="*")
            assert made.status == 403
            assert rooms.books.reading.anchors == {}

    run(go())


def test_a_set_that_a_channel_names_stays(tmp_path: Path, clock: ManualClock) -> None:
    acme = Manufacturer()
    channel = {"protocol": "est", "name": "iot", "profile": "device", "anchors": ["acme"]}

    async def go() -> None:
        async with serving(f"sqlite:///{tmp_path / 'c.db'}", tmp_path, clock) as (client, rooms):
            early = await client(ROOT, "PUT", "/channels/est/iot", channel, if_none_match="*")
            assert early.status == 422
            assert "$.anchors[0]" in early.body.decode()
            document = {"trust_anchors": [body(pem(acme.root))], "channels": [channel]}
            applied = await client(ROOT, "POST", "/declarations", {"document": document})
            assert applied.status == 200, applied
            assert rooms.books.est_channel("iot") is not None
            again = json.loads((await client(ROOT, "POST", "/declarations", {"document": document})).body)
            assert {change["change"] for change in again["changes"]} == {"unchanged"}
            kept = await client(ROOT, "DELETE", PATH, if_match="*")
            assert kept.status == 409
            assert "est/iot" in kept.body.decode()

    run(go())


def test_est_channels_are_checked(tmp_path: Path, clock: ManualClock) -> None:
    async def go() -> None:
        async with serving(f"sqlite:///{tmp_path / 'c.db'}", tmp_path, clock) as (client, _):
            for name, channel, place in (
                ("cacerts", {}, "$.name"),
                ("iot", {"profile": "none"}, "$.profile"),
                ("iot", {"profiles_accepted": ["none"]}, "$.profiles_accepted[0]"),
                ("iot", {"accept": []}, "$.accept"),
                ("iot", {"accept": ["both", "both"]}, "$.accept"),
                ("iot", {"renew_expired": -1}, "$.renew_expired"),
                ("iot", {"colour": "blue"}, "colour"),
            ):
                whole = {"protocol": "est", "name": name, "profile": "device", **channel}
                answer = await client(ROOT, "PUT", f"/channels/est/{name}", whole, if_none_match="*")
                assert answer.status in (400, 422), answer
                assert place in answer.body.decode(), (place, answer.body)
            wrong = {"protocol": "acme", "name": "iot", "profiles": ["device"]}
            answer = await client(ROOT, "PUT", "/channels/est/iot", wrong, if_none_match="*")
            assert answer.status == 422

    run(go())
