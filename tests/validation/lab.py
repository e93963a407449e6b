"""A validator against one loopback DNS server, and proofs for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from certloom.clock import ManualClock
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.settings.schema import Validation
from certloom.validation import Proof, Validated, ValidationFailed, Validator
from tests.dns_server import DNSServer, serve_dns
from tests.outbound.conftest import Run

THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
KEY_AUTHORIZATION = f"{TOKEN}.{THUMBPRINT}"
ACCOUNT_URL = "https://ca.example/acct/123"


def proof(kind: str, name: str, **more: Any) -> Proof:
    """A proof for a DNS name, or for an address if ``name`` is one."""
    is_ip = ":" in name or name.replace(".", "").isdigit()
    return Proof(
        identifier=Identifier(IdentifierType.IP if is_ip else IdentifierType.DNS, name),
        type=kind,
        **{"token": TOKEN, "key_authorization": KEY_AUTHORIZATION, "account_url": ACCOUNT_URL, **more},
    )


class Lab:
    """``validate`` runs a proof on the event loop of the test."""

    def __init__(self, run: Run, dns: DNSServer) -> None:
        self._run = run
        self.dns = dns
        self.clock = ManualClock()
        self.settings: dict[str, Any] = {
            "resolvers": (dns.address,),
            "allow_addresses": ("127.0.0.0/8", "::1/128"),
            "timeout_seconds": 2,
        }

    def validator(self) -> Validator:
        return Validator(Validation(**self.settings), self.clock)

    def validate(self, proof: Proof) -> Validated:
        validated: Validated = self._run(self.validator().validate(proof))
        return validated

    def failure(self, proof: Proof) -> ValidationFailed:
        """How the proof fails, which it has to; the detail is checked to be fit for a problem document."""
        with pytest.raises(ValidationFailed) as raised:
            self.validate(proof)
        failed = raised.value
        assert all(" " <= c <= "~" for c in failed.detail), failed.detail
        assert len(failed.detail) < 1500
        return failed


@contextlib.contextmanager
def lab(run: Run, records: Mapping[tuple[str, str], list[str]]) -> Iterator[Lab]:
    with serve_dns(records) as dns:
        yield Lab(run, dns)
