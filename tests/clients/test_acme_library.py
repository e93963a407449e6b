"""certbot's ``acme`` library: http-01, IP addresses, EAB, ARI, revoking twice, account deactivation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.clients.checks import Obtained, check
from tests.clients.lab import ADDRESS, TOOLS, Lab, environment, fresh_name, run
from tests.clients.servers import Servers
from tests.clients.target import Target

_PROGRAM = Path(__file__).with_name("acme_library_client.py")


def obtain(
    lab: Lab,
    folder: Path,
    target: Target,
    *,
    names: Sequence[str] = (),
    addresses: Sequence[str] = (),
    revoke: bool = False,
    deactivate: bool = False,
) -> tuple[Obtained, dict[str, Any]]:
    ask = {
        "directory": target.directory,
        "names": names,
        "addresses": addresses,
        "address": ADDRESS,
        "http_port": lab.http_port,
        "eab": {"kid": target.eab.kid, "hmac": target.eab.hmac} if target.eab else None,
        "revoke": revoke,
        "deactivate": deactivate,
    }
    printed = run(
        [TOOLS / "certbot/bin/python", _PROGRAM],
        env=environment(folder, REQUESTS_CA_BUNDLE=str(target.tls_ca)),
        cwd=folder,
        stdin=json.dumps(ask),
    )
    obtained = check(target.roots, folder / "chain.pem", folder / "it.key", [*names, *addresses])
    return obtained, json.loads(printed.splitlines()[-1])


def test_a_certificate_is_revoked_once_and_the_account_deactivated(
    lab: Lab, servers: Servers, tmp_path: Path
) -> None:
    obtained, outcome = obtain(
        lab, tmp_path, servers.target(), names=[fresh_name()], revoke=True, deactivate=True
    )
    assert outcome["second_revocation"] == "urn:ietf:params:acme:error:alreadyRevoked"
    assert outcome["account"] == "deactivated"
    assert outcome["after_deactivation"] == "urn:ietf:params:acme:error:unauthorized"
    servers.assert_revoked(obtained, reason=4)


def test_a_name_and_an_address_in_one_certificate(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    obtain(lab, tmp_path, servers.target(), names=[fresh_name()], addresses=[ADDRESS])


def test_the_renewal_time_lies_within_the_validity(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    obtained, outcome = obtain(lab, tmp_path, servers.target(), names=[fresh_name()])
    begin = obtained.certificate.not_valid_before_utc.timestamp()
    end = obtained.certificate.not_valid_after_utc.timestamp()
    assert begin + (end - begin) / 3 < outcome["renew_at"] < end


def test_external_account_binding(lab: Lab, servers: Servers, tmp_path: Path) -> None:
    obtain(lab, tmp_path, servers.target(eab=True), names=[fresh_name()])
