"""What every route of the API has in common, shown on resources that exist."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from certloom.api import certificates
from certloom.api.app import API
from certloom.api.idempotency import IdempotencyKey
from certloom.api.resources import table
from certloom.api.routing import ROUTES, Answer, Call, Public, Stream, route
from certloom.audit import Origin
from certloom.clock import ManualClock
from certloom.identity.principals import Grant, Principal, Scope, local
from certloom.server.rooms import Rooms, open_rooms
from certloom.server.services import services
from certloom.settings.schema import API as APISettings
from certloom.settings.schema import Database, Logging, Settings
from certloom.store import configuration
from tests.api.asking import Reply, ask
from tests.conftest import run
from tests.enrollment.people import person

ADMIN = local("tester")
HOOK = {"url": "https://hooks.example/one", "events": ["certificate.issued"]}
CHANNEL = {"protocol": "acme", "name": "lab", "profiles": ["tls-server"]}
WHERE = "/channels/acme/lab"


class Site:
    """An installation, and its API without listeners."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.app = API(services(rooms))

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: Principal | None = ADMIN,
        scope: dict[str, Any] | None = None,
        **headers: str,
    ) -> Reply:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None:
            sent.setdefault("content-type", "application/json")
        return await ask(
            self.app, method, f"/api/v1{path}", principal=who, headers=sent, body=data, scope=scope
        )

    async def token(self, *grants: Grant) -> str:
        _, token = await self.rooms.store.write(
            lambda tx: self.rooms.credentials.create_token(
                tx, grants=grants or (Grant(role="admin"),), origin=Origin("local:tester")
            )
        )
        return token


def with_site(url: str, tmp_path: Path, clock: ManualClock, use: Any, **api: int) -> None:
    async def main() -> None:
        settings = Settings(
            data_dir=str(tmp_path / "data"),
            database=Database(url=url),
            api=APISettings(**api),
            logging=Logging(level="error"),
        )
        rooms = await open_rooms(settings, clock)
        try:
            await use(Site(rooms))
        finally:
            await rooms.close()

    run(main())


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'certloom.db'}"


def code(reply: Reply) -> str:
    assert reply.headers["content-type"] == "application/problem+json", reply
    document = json.loads(reply.body)
    assert document["status"] == reply.status
    assert document["type"] == f"urn:certloom:problem:{document['code']}"
    assert document["request_id"] == reply.headers["x-request-id"]
    found: str = document["code"]
    return found


# -- requests that are not of the form -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "expected"),
    [
        ("GET", "/nothing/here", None, {}, 404, "not-found"),
        ("GET", "/profiles/", None, {}, 404, "not-found"),
        ("PATCH", "/profiles", None, {}, 405, "method-not-allowed"),
        ("GET", "/profiles/UPPER", None, {}, 400, "malformed"),
        ("GET", "/profiles/a%0A", None, {}, 400, "malformed"),
        ("GET", "/profiles/a%00b", None, {}, 400, "malformed"),
        ("GET", "/profiles/%ff", None, {}, 400, "malformed"),
        ("GET", "/profiles/" + "a" * 5000, None, {}, 400, "malformed"),
        ("GET", "/profiles?limit=0", None, {}, 400, "malformed"),
        ("GET", "/profiles?limit=many", None, {}, 400, "malformed"),
        ("GET", "/profiles?limit=1&limit=2", None, {}, 400, "malformed"),
        ("GET", "/profiles?unknown=1", None, {}, 400, "malformed"),
        ("GET", "/jobs?kind=%00", None, {}, 400, "malformed"),
        ("GET", "/jobs?kind=%ff", None, {}, 400, "malformed"),
        ("GET", "/jobs?" + "&".join(f"k{i}=1" for i in range(200)), None, {}, 400, "malformed"),
        ("GET", "/profiles?cursor=AAAA", None, {}, 400, "bad-cursor"),
        ("GET", "/profiles?cursor=%21", None, {}, 400, "bad-cursor"),
        ("GET", "/version?a=1", None, {}, 400, "malformed"),
        ("GET", "/jobs/0", None, {}, 400, "malformed"),
        ("GET", "/jobs/99999999999999999999", None, {}, 400, "malformed"),
        ("POST", "/declarations", b"{", {}, 400, "malformed"),
        ("POST", "/declarations", b"\xff", {}, 400, "malformed"),
        ("POST", "/declarations", b"[" * 100_000, {}, 400, "malformed"),
        ("POST", "/declarations", b'{"document":' + b'{"a":' * 50_000, {}, 400, "malformed"),
        ("POST", "/declarations", b'{"document":{"a":"\\u0000"}}', {}, 400, "malformed"),
        ("POST", "/declarations", b'{"document":{},"extra":1}', {}, 400, "malformed"),
        ("POST", "/declarations", b"a=1", {"content_type": "text/plain"}, 415, "unsupported-media-type"),
        ("POST", "/declarations", {"document": {}}, {"idempotency_key": "x" * 256}, 400, "malformed"),
        ("POST", "/declarations", {"document": {}}, {"idempotency_key": "a b\x07"}, 400, "malformed"),
    ],
)
def test_what_is_not_of_the_form_is_a_problem_and_nothing_more(
    sqlite: str,
    tmp_path: Path,
    clock: ManualClock,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    status: int,
    expected: str,
) -> None:
    async def use(site: Site) -> None:
        reply = await site(method, path, body, who=ADMIN, scope=None, **headers)
        assert (reply.status, code(reply)) == (status, expected), reply
        if status == 405:
            assert reply.headers["allow"] == "GET, HEAD"

    with_site(sqlite, tmp_path, clock, use)


def test_a_path_may_be_percent_encoded_and_head_is_get_without_a_body(
    sqlite: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def use(site: Site) -> None:
        assert (await site("GET", "/profiles/tls%2Dserver")).status == 200
        whole, without = await site("GET", "/profiles"), await site("HEAD", "/profiles")
        assert (without.status, without.body) == (200, b"")
        assert without.headers["content-length"] == str(len(whole.body))

    with_site(sqlite, tmp_path, clock, use)


# -- who asks --------------------------------------------------------------------------------------------


def test_a_token_opens_what_its_grants_say(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def use(site: Site) -> None:
        token = await site.token(Grant(role="auditor"))
        shown = await site("GET", "/profiles", who=None, authorization=f"Bearer {token}")
        assert shown.status == 200
        denied = await site("PUT", WHERE, CHANNEL, who=None, authorization=f"bearer {token}")
        assert (denied.status, code(denied)) == (403, "forbidden")
        for wrong in ("Bearer clt_wrong", f"Basic {token}", "Bearer", f"Bearer {token}x", "Bearer \xe9"):
            refused = await site("GET", "/profiles", who=None, authorization=wrong)
            assert (refused.status, code(refused)) == (401, "unauthenticated")
            assert refused.headers["www-authenticate"].startswith("Bearer ")

    with_site(database_url, tmp_path, clock, use)


SITE = "https://pki.example"
CROSS_SITE = [
    {"sec_fetch_site": "cross-site", "origin": "https://evil.example"},
    {"sec_fetch_site": "same-site", "origin": "https://other.pki.example"},
    {"sec_fetch_site": "none"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": SITE + ".evil.example"},
    {},
]


def test_a_session_changes_things_only_from_this_sites_own_pages(
    sqlite: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def use(site: Site) -> None:
        person = {"name": "root", "grants": [{"role": "admin"}], "password": "correct horse battery"}
        made = await site("POST", "/people", {k: v for k, v in person.items() if k != "password"})
        id = json.loads(made.body)["id"]
        secret = {"password": person["password"]}
        assert (await site("PUT", f"/people/{id}/password", secret, if_match="*")).status == 200
        login = {"name": "root", "password": person["password"]}
        here = {"certloom.base_url": SITE, "client": ("192.0.2.1", 1)}
        came = await site("POST", "/sessions", login, who=None, scope=here, sec_fetch_site="same-origin")
        assert came.status == 201, came
        cookie, *attributes = came.headers["set-cookie"].split("; ")
        assert cookie.startswith("__Host-certloom=")
        assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/"} <= set(attributes)

        async def asked(method: str, path: str, body: Any = None, **headers: str) -> Reply:
            return await site(method, path, body, who=None, scope=here, cookie=f"a=b; {cookie}", **headers)

        assert (await asked("GET", "/profiles", sec_fetch_site="cross-site")).status == 200
        for headers in CROSS_SITE:
            refused = await asked("PUT", WHERE, CHANNEL, **headers)
            assert (refused.status, code(refused)) == (403, "cross-site"), headers
        assert (await asked("PUT", WHERE, CHANNEL, sec_fetch_site="same-origin")).status == 201
        assert (await asked("PUT", WHERE, CHANNEL, origin=SITE, if_match="*")).status == 200
        over = await site("GET", "/profiles", who=None, scope=here, cookie="__Host-certloom=nonsense")
        assert (over.status, code(over)) == (401, "unauthenticated")
        stolen = await site("POST", "/sessions", login, who=None, scope=here, sec_fetch_site="cross-site")
        assert code(stolen) == "cross-site"

    with_site(sqlite, tmp_path, clock, use)


# -- limits ----------------------------------------------------------------------------------------------


def test_each_principal_has_a_quota_of_their_own(sqlite: str, tmp_path: Path, clock: ManualClock) -> None:
    async def use(site: Site) -> None:
        one, other = await site.token(), await site.token()
        for left in (2, 1, 0):
            reply = await site("GET", "/profiles", who=None, authorization=f"Bearer {one}")
            assert reply.status == 200
            assert reply.headers["ratelimit-policy"] == '"principal";q=3;w=60'
            assert reply.headers["ratelimit"].startswith(f'"principal";r={left};t=')
        over = await site("GET", "/profiles", who=None, authorization=f"Bearer {one}")
        assert (over.status, code(over)) == (429, "too-many-requests")
        assert 0 < int(over.headers["retry-after"]) <= 60
        assert (await site("GET", "/profiles", who=None, authorization=f"Bearer {other}")).status == 200
        assert "ratelimit" not in (await site("GET", "/profiles")).headers  # the operator has none
        clock.advance(60)
        assert (await site("GET", "/profiles", who=None, authorization=f"Bearer {one}")).status == 200

    with_site(sqlite, tmp_path, clock, use, requests_per_minute=3)


def test_guessing_is_bounded_by_address_and_locks_nobody_else_out(
    sqlite: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def use(site: Site) -> None:
        good = await site.token()
        here: dict[str, Any] = {"client": ("2001:db8::1", 1)}
        neighbour: dict[str, Any] = {"client": ("2001:db8::2", 1)}
        elsewhere: dict[str, Any] = {"client": ("192.0.2.7", 1)}

        async def guess(scope: dict[str, Any]) -> int:
            return (await site("GET", "/jobs", who=None, scope=scope, authorization="Bearer clt_x")).status

        assert [await guess(here) for _ in range(4)] == [401, 401, 429, 429]
        assert await guess(neighbour) == 429  # the same /64
        assert await guess(elsewhere) == 401
        right = await site("GET", "/jobs", who=None, scope=here, authorization=f"Bearer {good}")
        assert right.status == 200
        login = {"name": "nobody", "password": "some wrong password"}
        refused = await site("POST", "/sessions", login, who=None, scope=here)
        assert refused.status == 429

    with_site(sqlite, tmp_path, clock, use, failures_per_minute=2)


# -- preconditions ---------------------------------------------------------------------------------------


def test_what_is_edited_wants_its_etag_back(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def use(site: Site) -> None:
        made = await site("PUT", WHERE, CHANNEL)
        assert (made.status, made.headers["location"]) == (201, f"/api/v1{WHERE}")
        first = made.headers["etag"]
        assert (await site("GET", WHERE)).headers["etag"] == first
        again = await site("PUT", WHERE, CHANNEL, if_none_match="*")
        assert (again.status, code(again)) == (412, "precondition-failed")
        unsaid = await site("PUT", WHERE, CHANNEL)
        assert (unsaid.status, code(unsaid)) == (428, "precondition-required")
        changed = await site("PUT", WHERE, {**CHANNEL, "eab_required": True}, if_match=f'"x", {first}')
        assert changed.status == 200
        second = changed.headers["etag"]
        assert second != first
        for method, body in (("PUT", CHANNEL), ("DELETE", None)):
            late = await site(method, WHERE, body, if_match=first)
            assert (late.status, code(late)) == (412, "precondition-failed")
            weak = await site(method, WHERE, body, if_match=f"W/{second}")
            assert weak.status == 412
        assert json.loads((await site("GET", WHERE)).body)["channel"]["eab_required"] is True
        assert (await site("DELETE", WHERE, if_match=second)).status == 204
        gone = await site("PUT", WHERE, CHANNEL, if_match=second)
        assert gone.status == 412
        assert (await site("DELETE", WHERE, if_match="*")).status == 404

    with_site(database_url, tmp_path, clock, use)


def test_of_two_edits_of_the_same_version_one_wins(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def use(site: Site) -> None:
        first = (await site("PUT", WHERE, CHANNEL)).headers["etag"]
        edits = [
            site("PUT", WHERE, {**CHANNEL, "explanation_url": f"https://e.example/{i}"}, if_match=first)
            for i in range(8)
        ]
        statuses = sorted(reply.status for reply in await asyncio.gather(*edits))
        assert statuses == [200] + [412] * 7

    with_site(database_url, tmp_path, clock, use)


@pytest.mark.parametrize("where", [WHERE, "/profiles/lab", "/rules/lab"])
def test_of_two_creations_of_the_same_name_one_wins(
    where: str, database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    """At the same instant as one after the other: what somebody made is not overwritten unseen."""

    def wanted(i: int, authority: str) -> dict[str, Any]:
        if where == WHERE:
            return {**CHANNEL, "explanation_url": f"https://e.example/{i}"}
        if where.startswith("/rules"):
            return {"when": f"size(request.names) > {i}", "effect": "warn", "message": "many"}
        return {
            "authority": authority,
            "description": f"number {i}",
            "keys": [{"type": "ec"}],
            "validity": {"default": "1d", "max": "2d"},
        }

    async def use(site: Site) -> None:
        authority = site.rooms.books.profiles()["tls-server"][0].authority
        for none_match, late in (("", 428), ("*", 412)):
            replies = await asyncio.gather(
                *(site("PUT", where, wanted(i, authority), if_none_match=none_match) for i in range(6))
            )
            assert sorted(reply.status for reply in replies) == [201] + [late] * 5, replies
            (won,) = (reply for reply in replies if reply.status == 201)
            there = await site("GET", where)
            assert (there.body, there.headers["etag"]) == (won.body, won.headers["etag"])
            if where.startswith("/profiles"):
                break  # They stay.
            assert (await site("DELETE", where, if_match="*")).status == 204

    with_site(database_url, tmp_path, clock, use)


def test_every_change_of_the_configuration_is_told(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    """Two at once count as two: a process that saw the first would otherwise never look for the second."""

    async def use(site: Site) -> None:
        before = await site.rooms.store.read(configuration.generation)
        await asyncio.gather(*(site.rooms.store.write(configuration.touch) for _ in range(20)))
        assert await site.rooms.store.read(configuration.generation) == before + 20

    with_site(database_url, tmp_path, clock, use)


def test_what_was_seen_already_is_not_sent_again(sqlite: str, tmp_path: Path, clock: ManualClock) -> None:
    async def use(site: Site) -> None:
        tag = (await site("GET", "/profiles/tls-server")).headers["etag"]
        same = await site("GET", "/profiles/tls-server", if_none_match=f'"old", W/{tag}')
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
        assert (await site("GET", "/profiles/tls-server", if_none_match='"old"')).status == 200

    with_site(sqlite, tmp_path, clock, use)


# -- repeats ---------------------------------------------------------------------------------------------

NEW_CA = {"name": "lab", "subject": "CN=Lab"}
BINDING = {"document": {"credentials": [{"id": "ci", "channel": "default"}]}}


def test_a_repeat_with_the_same_key_has_its_effect_once(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def use(site: Site) -> None:
        first = await site("POST", "/declarations", BINDING, idempotency_key='"one"')
        secret = json.loads(first.body)["secrets"][0]["secret"]
        again = await site("POST", "/declarations", BINDING, idempotency_key="one")
        assert (again.status, again.body) == (first.status, first.body)
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        # It shows a secret, so it is kept sealed ...
        rows = await site.rooms.store.scan(lambda tx: tx.all("SELECT answer FROM idempotency"))
        assert len(rows) == 1
        assert secret.encode() not in rows[0][0]
        # ... and for whom it was made.
        stranger = local("somebody-else")
        other = await site("POST", "/declarations", BINDING, who=stranger, idempotency_key="one")
        assert json.loads(other.body)["changes"][0]["change"] == "unchanged"
        # Without the key the same asks again.
        plain = await site("POST", "/declarations", BINDING)
        assert json.loads(plain.body)["changes"][0]["change"] == "unchanged"

    with_site(database_url, tmp_path, clock, use)


def test_what_makes_something_keeps_its_answer_in_the_same_transaction() -> None:
    """Kept after it, a crash in between would let a repeat have a second effect."""
    keeps = re.compile(r"call\.create\(|call\.remember\(|_act\(call, unit\)")
    assert keeps.search(inspect.getsource(certificates._act))
    keyed = [each for each in table() if each.keyed]
    assert len(keyed) > 20
    assert [each.template for each in keyed if not keeps.search(inspect.getsource(each.handler))] == []


def test_a_checkpoint_is_not_there_without_the_answer_that_tells_of_it(
    database_url: str, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(site: Site) -> None:
        async def made() -> int:
            ((count,),) = await site.rooms.store.scan(
                lambda tx: tx.all("SELECT count(*) FROM audit_checkpoints")
            )
            return int(count)

        def crash(*_: Any) -> None:
            raise OSError("crash")

        before = await made()
        with monkeypatch.context() as broken:
            broken.setattr(IdempotencyKey, "keep", crash)
            assert (await site("POST", "/audit/checkpoints", idempotency_key="c")).status == 500
        assert await made() == before
        first = await site("POST", "/audit/checkpoints", idempotency_key="c")
        again = await site("POST", "/audit/checkpoints", idempotency_key="c")
        assert (first.status, again.status, again.body) == (201, 201, first.body)
        assert again.headers["idempotency-replayed"] == "true"

    with_site(database_url, tmp_path, clock, use)


def test_a_key_is_one_requests(sqlite: str, tmp_path: Path, clock: ManualClock) -> None:
    async def use(site: Site) -> None:
        assert (await site("POST", "/authorities", NEW_CA, idempotency_key="k")).status == 201
        for method, path, body in (
            ("POST", "/authorities", {**NEW_CA, "name": "other"}),
            ("POST", "/declarations", BINDING),
        ):
            reused = await site(method, path, body, idempotency_key="k")
            assert (reused.status, code(reused)) == (422, "idempotency-key-reused")
        assert (await site("GET", "/authorities/other")).status == 404
        # What was refused changed nothing, and is not kept.
        bad = {**NEW_CA, "name": "second", "issuer": "none"}
        assert (await site("POST", "/authorities", bad, idempotency_key="r")).status == 422
        assert (
            await site("POST", "/authorities", {**bad, "issuer": "root"}, idempotency_key="r")
        ).status == 201

    with_site(sqlite, tmp_path, clock, use)


def test_at_the_same_instant_a_key_serves_one(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def use(site: Site) -> None:
        # Two processes before one database: what one has under way the other does not know.
        other = Site(site.rooms)
        asked = [
            where("POST", "/authorities", NEW_CA, idempotency_key="k") for where in (site, other, site, other)
        ]
        replies = await asyncio.gather(*asked)
        for reply in replies:
            assert reply.status == 201 or code(reply) in ("in-progress", "conflict"), reply
        assert any(reply.status == 201 for reply in replies)
        certificates = {json.loads(r.body)["certificate"] for r in replies if r.status == 201}
        assert len(certificates) == 1
        made = await site.rooms.store.scan(
            lambda tx: tx.all("SELECT count(*) FROM events WHERE subject = 'authority:lab'")
        )
        assert made[0][0] == 1
        assert (await site("POST", "/authorities", NEW_CA, idempotency_key="k")).status == 201

    with_site(database_url, tmp_path, clock, use)


def test_a_kept_answer_is_for_who_may_still_ask(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    def ann(role: str = "admin", scope: Scope | None = None) -> Principal:
        return person("ann", role, scope=scope)

    async def use(site: Site) -> None:
        elsewhere = Scope(teams=("other",))
        account = await site("POST", "/people", {"name": "carl"})
        setup = f"/people/{json.loads(account.body)['id']}/setup"
        token = {"kind": "api-token", "service": "ci", "grants": [{"role": "auditor"}]}
        for path, body in (
            ("/declarations", BINDING),
            ("/authorities", NEW_CA),
            ("/webhooks", {"name": "hook", **HOOK}),
            ("/credentials", token),
            (setup, None),
        ):
            first = await site("POST", path, body, who=ann(), idempotency_key=path)
            assert first.status in (200, 201), first
            for less in (ann("auditor"), ann("admin", elsewhere)):
                refused = await site("POST", path, body, who=less, idempotency_key=path)
                assert (refused.status in (403, 404), "secret" in json.loads(refused.body)) == (True, False)
                assert "idempotency-replayed" not in refused.headers
            # It is theirs again with the right.
            again = await site("POST", path, body, who=ann(), idempotency_key=path)
            assert (again.status, again.body) == (first.status, first.body)
        made = json.loads((await site("POST", "/credentials", token, who=ann(), idempotency_key="c")).body)
        rotate = f"/credentials/{made['credential']['id']}/rotate"
        assert (await site("POST", rotate, {}, who=ann(), idempotency_key="r")).status == 200
        assert (await site("POST", rotate, {}, who=ann("auditor"), idempotency_key="r")).status == 403

    with_site(database_url, tmp_path, clock, use)


def test_kept_answers_are_forgotten_in_time(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    from certloom.api import idempotency

    async def use(site: Site) -> None:
        await site("POST", "/declarations", BINDING, idempotency_key="k")
        clock.advance(101)
        again = await site("POST", "/declarations", BINDING, idempotency_key="k")
        assert json.loads(again.body)["changes"][0]["change"] == "unchanged"  # asked anew, and kept anew
        assert await idempotency.prune(site.rooms.store, clock.now() - 100) == 0
        clock.advance(101)
        assert await idempotency.prune(site.rooms.store, clock.now() - 100) == 1

    with_site(database_url, tmp_path, clock, use, idempotency_seconds=100)


def test_nothing_is_kept_of_what_was_not_done(sqlite: str, tmp_path: Path, clock: ManualClock) -> None:
    """The answer is in the transaction of the effect: without the one there is not the other."""

    async def use(site: Site) -> None:
        dry = {**BINDING, "dry_run": True}
        assert (await site("POST", "/declarations", dry, idempotency_key="d")).status == 200
        generation = await site.rooms.store.read(configuration.generation)
        assert (await site("POST", "/declarations", dry, idempotency_key="d")).status == 200
        assert await site.rooms.store.read(configuration.generation) == generation

    with_site(sqlite, tmp_path, clock, use)


# -- listings, streams -----------------------------------------------------------------------------------


def test_pages_follow_one_another_and_cursors_are_not_for_elsewhere(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def use(site: Site) -> None:
        names, cursor = [], ""
        while True:
            page = json.loads((await site("GET", f"/profiles?limit=1{cursor}")).body)
            names += [item["name"] for item in page["items"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert names == ["device", "tls-client", "tls-server"]
        stolen = await site("GET", f"/authorities?{cursor[1:]}")
        assert (stolen.status, code(stolen)) == (400, "bad-cursor")
        flipped = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
        assert (await site("GET", f"/profiles?limit=1{flipped}")).status in (200, 400)
        jobs = await site("GET", "/jobs?state=failed")
        assert json.loads(jobs.body) == {"items": [], "next": None}

    with_site(database_url, tmp_path, clock, use)


class Line(msgspec.Struct):
    number: int


def test_streams_leave_in_pieces_and_fail_before_they_begin(
    sqlite: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def lines(most: int) -> Any:
        if most < 0:
            raise LookupError("nothing to say")
        for number in range(most):
            yield Line(number)

    @route("GET", "/test-stream/{n}", permission=Public("a test's"), summary="", answers={200: Line}, tag="t")
    async def handler(call: Call[Any, None, None]) -> Answer:
        return Answer(Stream(lines(int(call.headers["x-lines"]))))

    streaming = ROUTES.pop()

    async def use(site: Site) -> None:
        app = API(site.app.services, [streaming])
        pieces: list[bytes] = []
        reply = await ask(
            app, "GET", "/api/v1/test-stream/1", headers={"x-lines": "20000"}, on_piece=pieces.append
        )
        assert reply.headers["content-type"] == "application/jsonl"
        assert reply.headers["transfer-encoding"] == "chunked"
        assert len(pieces) > 3
        assert [json.loads(line)["number"] for line in b"".join(pieces).splitlines()] == list(range(20000))
        empty = await ask(app, "GET", "/api/v1/test-stream/1", headers={"x-lines": "0"})
        assert (empty.status, empty.body) == (200, b"")
        broken = await ask(app, "GET", "/api/v1/test-stream/1", headers={"x-lines": "-1"})
        assert (broken.status, code(broken)) == (500, "internal")
        assert b"nothing to say" not in broken.body

    with_site(sqlite, tmp_path, clock, use)
