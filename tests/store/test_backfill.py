"""What a migration computes from what earlier versions stored."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest

from certloom.clock import ManualClock
from certloom.pki.certificates import build_certificate
from certloom.pki.identifiers import parse_dns, parse_ip, parse_uri
from certloom.store import Store, Tx, certificates, migrations, open_store
from certloom.store.migrations import shipped
from certloom.store.name_keys import under
from tests.conftest import run
from tests.pki import making

NAMES = (
    parse_dns("www.example.com"),
    parse_dns("*.example.com"),
    parse_ip("192.0.2.1"),
    parse_uri("spiffe://prod.example.com/web"),
)


def _as_released(tx: Tx, der: bytes) -> None:
    """A row as the first released schema had them."""
    tx.run(
        "INSERT INTO certificates (authority, serial, der, spki_sha256, not_before, not_after, profile,"
        " profile_version, requester, request_id, crl_shard, issued)"
        " VALUES ('issuing', ?, ?, ?, 1, 2, 'web', 1, 'acme-account:a', 'r', 0, 1)",
        (b"\1", der, bytes(32)),
    )
    for name in NAMES:
        tx.run(
            "INSERT INTO certificate_names (name, type, certificate_id) VALUES (?, ?, 1)",
            (name.value, name.type.value),
        )


@pytest.fixture
def url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path}/certloom.db"
    cluster = request.getfixturevalue("postgresql")
    found: str = cluster.url(cluster.create())
    return found


def test_certificates_of_the_first_schema_are_found_by_what_their_der_says(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hierarchy = making.hierarchy()
    der = build_certificate(making.template(identifiers=NAMES), hierarchy.issuer, hierarchy.issuer_key)
    first = shipped()[:1]

    async def before() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "shipped", lambda: first)
            store = await open_store(url, clock=clock)
        await store.write(lambda tx: _as_released(tx, der))
        await store.close()

    async def after() -> None:
        store: Store = await open_store(url, clock=clock)
        found = await store.read(lambda tx: certificates.get(tx, 1))
        assert found is not None
        assert found.identifiers == NAMES
        assert found.key_type == "P-256"
        assert found.fingerprint == hashlib.sha256(der).digest()
        assert (found.owner, found.team) == (None, None)
        for name in NAMES:
            by_name = await store.read(partial(certificates.by_name, name=name))
            assert [c.id for c in by_name] == [1]
        keys = await store.read(
            lambda tx: tx.all(
                "SELECT key FROM certificate_names WHERE key >= ? AND key < ?", under("example.com")
            )
        )
        assert sorted(key for (key,) in keys) == ["com.example.*.", "com.example.www."]
        await store.close()

    run(before())
    run(after())
