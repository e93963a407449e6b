"""ARI for real: clients renew what is marked for replacement, once, and then leave the successor alone."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from tests.clients.lab import Lab, fresh_name, wait_for
from tests.clients.servers import Servers
from tests.clients.test_caddy import Caddy
from tests.clients.test_certbot import Certbot


def _forget_when_to_ask_again(folder: Path) -> None:
    """Make certbot believe that the Retry-After of its last ARI answer has passed."""
    (renewal,) = (folder / "config/renewal").glob("*.conf")
    text = renewal.read_text()
    renewal.write_text(re.sub(r"(?m)^ari_retry_after *=.*$", "ari_retry_after = 2020-01-01T00:00:00", text))


def _asked(folder: Path) -> int:
    """How many ARI answers certbot has logged."""
    logs = (folder / "logs").glob("letsencrypt.log*")
    return sum(path.read_text().count('"suggestedWindow"') for path in logs)


def test_certbot_renews_once_what_is_marked_for_replacement(
    lab: Lab, servers: Servers, tmp_path: Path
) -> None:
    server = servers.certloom()
    certbot = Certbot(lab, tmp_path, servers.target())
    first = certbot.obtain(fresh_name())

    assert certbot.renew().serial == first.serial, "renewed before its time"
    asked = _asked(tmp_path)
    assert asked >= 1

    server.replace(first)
    _forget_when_to_ask_again(tmp_path)
    second = certbot.renew()
    assert second.serial != first.serial, "not renewed although marked"

    for _ in range(2):
        _forget_when_to_ask_again(tmp_path)
        before = _asked(tmp_path)
        assert certbot.renew().serial == second.serial, "renewed again: the successor's window is in the past"
        assert _asked(tmp_path) > before


def _retry_after_has_passed(folder: Path) -> bool:
    """Make Caddy, which is stopped, believe that its ARI answer is stale. False if it had none."""
    (stored,) = (folder / "data/caddy/certificates").glob("*/*/*.json")
    metadata: dict[str, Any] = json.loads(stored.read_text())
    information = metadata.get("issuer_data", {}).get("renewal_info")
    if not information:
        return False
    information["_retryAfter"] = "2020-01-01T00:00:00Z"
    stored.write_text(json.dumps(metadata))
    return True


def test_caddy_renews_once_what_is_marked_for_replacement(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    server = servers.certloom()
    name = fresh_name()
    caddy = Caddy(lab, tmp_path, servers.target(), "http-01", name, renew_interval="1s")
    with caddy.running() as program:
        first = caddy.obtained(program)
        wait_for("Caddy's ARI answer", lambda: "suggestedWindow" in _metadata(tmp_path))
        time.sleep(3)
        assert caddy.obtained(program).serial == first.serial, "renewed before its time"

    assert _retry_after_has_passed(tmp_path)
    server.replace(first)
    with caddy.running() as program:
        second = caddy.obtained(program, other_than=first)
        # Several rounds of maintenance, with ARI answers for the successor.
        time.sleep(6)
        assert caddy.obtained(program).serial == second.serial, "renewed again and again"
    assert server.count_certificates(name) == 2


def _metadata(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "data/caddy/certificates").glob("*/*/*.json"))
