"""Approvals with a real ACME client, over real sockets: certbot waits, or gives up and comes back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.lab import Lab, fresh_name, wait_for
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.clients.test_certbot import Certbot

HOUR = 3600


class MovableCertloom(Certloom):
    """A server whose time a test can move."""

    def serve_command(self) -> list[str]:
        program = Path(__file__).with_name("serve_with_clock.py")
        return [sys.executable, str(program), str(self._offset), str(self._settings)]

    @property
    def _offset(self) -> Path:
        return self.folder / "ahead"

    def move_time(self, seconds: int) -> None:
        before = int(self._offset.read_text()) if self._offset.exists() else 0
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(str(before + seconds))
        fresh.replace(self._offset)

    def approvals(self) -> list[Any]:
        found: list[Any] = self.local("GET", "/approvals")["items"]
        return found

    def with_stages(self, *stages: dict[str, Any]) -> None:
        """Have the channel ``asked`` issue only once people agree."""
        newest = self.local("GET", "/profiles/tls-server")
        self.local(
            "POST",
            "/declarations",
            {
                "document": {
                    "profiles": [
                        {
                            "name": "asked",
                            "authority": newest["profile"]["authority"],
                            "keys": [{"type": "ec"}, {"type": "rsa"}],
                            "extended_key_usage": ["serverAuth"],
                            # The server's clock will be ahead of the client's.
                            "validity": {"default": "30d", "backdate": "3h"},
                            "approval": {"stages": list(stages), "good_for": "1d"},
                        }
                    ],
                    "channels": [{"protocol": "acme", "name": "asked", "profiles": ["asked"]}],
                }
            },
        )


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, lab: Lab, servers: Servers, tmp_path: Path) -> Any:
    plain = servers.another(tmp_path, database=request.param)
    server = MovableCertloom(tmp_path / "movable", lab, database_url=plain.database_url)
    with server:
        yield server


def in_background(act: Callable[[], Any]) -> Callable[[], Any]:
    """Begin something slow; the result waits for its end, and raises what it raised."""
    outcome: dict[str, Any] = {}

    def whole() -> None:
        try:
            outcome["value"] = act()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=whole)
    thread.start()

    def result() -> Any:
        thread.join(100)
        assert not thread.is_alive()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    return result


def test_a_client_that_still_polls_gets_its_certificate_when_the_last_stage_agrees(
    server: MovableCertloom, lab: Lab, tmp_path: Path
) -> None:
    server.local("PUT", "/roles/security", {"permissions": ["approval.read", "approval.decide"]})
    server.with_stages({"role": "approver", "approvers": 2}, {"role": "security"})
    ann, ben, sam = (
        server.token("ann", "approver"),
        server.token("ben", "approver"),
        server.token("sam", "security"),
    )
    certbot = Certbot(lab, tmp_path, server.target("asked"))
    obtained = in_background(lambda: certbot.obtain(fresh_name()))
    wait_for("the question", lambda: bool(server.approvals()), 60)
    (approval,) = server.approvals()
    where = f"/approvals/{approval['id']}/decisions"
    yes = {"decision": "approve", "reason": "as agreed"}
    assert server.ask(sam, "POST", where, yes)[0] == 403
    assert server.ask(ann, "POST", where, yes)[1]["state"] == "waiting"
    assert server.ask(ann, "POST", where, yes)[0] == 409
    assert server.ask(ben, "POST", where, yes)[1]["stage"] == 1
    assert server.ask(sam, "POST", where, yes)[1]["state"] == "granted"
    assert obtained().certificate is not None


def test_certbot_gives_up_people_agree_an_hour_later_and_its_next_run_needs_nobody(
    server: MovableCertloom, lab: Lab, tmp_path: Path
) -> None:
    server.with_stages({"role": "approver"})
    certbot = Certbot(lab, tmp_path, server.target("asked"))
    name = fresh_name()
    with pytest.raises(AssertionError, match="exit status 1"):
        certbot.obtain(name, more=("--issuance-timeout", "2"))
    # Impatient people try again: they join what waits.
    with pytest.raises(AssertionError, match="exit status 1"):
        certbot.obtain(name, more=("--issuance-timeout", "2"))
    server.move_time(HOUR)
    (approval,) = server.approvals()
    assert approval["state"] == "waiting"
    decided = server.local("POST", f"/approvals/{approval['id']}/decisions", {"decision": "approve"})
    assert decided["state"] == "granted"
    assert len(decided["requests"]) == 2
    certbot.obtain(name)
    (only,) = server.approvals()
    assert only["id"] == approval["id"]
    requests = server.local("GET", f"/requests?approval={approval['id']}")["items"]
    assert len(requests) == 3
    wait_for(
        "what waited",
        lambda: all(
            request["state"] == "issued"
            for request in server.local("GET", f"/requests?approval={approval['id']}")["items"]
        ),
    )


def test_a_denial_ends_the_clients_waiting(server: MovableCertloom, lab: Lab, tmp_path: Path) -> None:
    server.with_stages({"role": "approver"})
    certbot = Certbot(lab, tmp_path, server.target("asked"))
    failed = in_background(lambda: certbot.obtain(fresh_name()))
    wait_for("the question", lambda: bool(server.approvals()), 60)
    (approval,) = server.approvals()
    no = {"decision": "deny", "reason": "not this name"}
    server.local("POST", f"/approvals/{approval['id']}/decisions", no)
    with pytest.raises(AssertionError, match="not this name"):
        failed()
