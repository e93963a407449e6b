"""What an ACME client is told when lint stops its certificate."""

from __future__ import annotations

from typing import Any

from certloom.policy.profiles import encode_profile, parse_profile
from certloom.store import configuration
from certloom.store.base import Tx
from tests.protocols.acme.lab import PROFILE, Lab, Labs, make_csr

STRICT: dict[str, Any] = {**PROFILE, "lint": {"mode": "every", "rules": "cabf-tls", "level": "error"}}


def test_findings_are_told_with_code_and_message(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        def unit(tx: Tx) -> None:
            profile = parse_profile({"authority": "ca", **STRICT})
            configuration.add_profile_version(tx, profile.name, 2, encode_profile(profile), lab.clock.now())
            configuration.touch(tx)

        await lab.store.write(unit)
        await lab.books.refresh()
        client = await lab.client().registered()
        order = await client.order("db.internal")
        await client.prove(order)
        answer = await client.finalize(order, make_csr(["db.internal"]))
        assert answer.status == 400
        detail = answer.json["detail"]
        assert detail.startswith("lint stops this certificate: error: ")
        assert "cabf.internal_domain_name" in detail
        # The Baseline Requirements want a policy OID, which this profile does not add.
        assert "cabf.certificate_policies_extension_missing" in detail or "polic" in detail
        told = [cause["detail"] for cause in answer.json["subproblems"]]
        assert len(told) >= 2
        assert all(one in detail for one in told)
        assert await lab.count("certificates") == 0
        await lab.linter.close()

    labs.run(scenario)
