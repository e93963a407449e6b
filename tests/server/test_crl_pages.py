"""CRLs over HTTP: which addresses there are, what caches are told, and who is not told twice."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from cryptography import x509

from certloom.audit import SYSTEM
from certloom.clock import SystemClock
from certloom.server.app import Application
from certloom.settings import Settings
from certloom.store import crls
from certloom.store.crls import WHOLE
from tests.server.listening import run
from tests.server.test_app import running
from tests.server.test_ocsp import Reply, exchange


async def get(application: Application, path: str, *headers: str, method: str = "GET") -> Reply:
    return await exchange(application, method, path, b"", *headers)


async def options(application: Application, **changes: object) -> None:
    import msgspec

    from certloom.authorities.local import LocalBody
    from certloom.store import authorities, configuration
    from certloom.store.base import Tx

    def unit(tx: Tx) -> None:
        row = authorities.get(tx, "issuing")
        assert row is not None
        body = msgspec.structs.replace(msgspec.json.decode(row.body, type=LocalBody), **changes)
        authorities.update(tx, msgspec.structs.replace(row, body=msgspec.json.encode(body).decode()))
        configuration.touch(tx)

    await application.rooms.store.write(unit)
    await application.rooms.refresh()
    await application.rooms.crls.refresh()


def test_a_crl_is_fetched_once_and_asked_about_after(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings, SystemClock()) as application:
            status, headers, body = await get(application, "/crl/issuing/3.crl")
            assert status == 200
            assert headers["content-type"] == "application/pkix-crl"
            found = x509.load_der_x509_crl(body)
            stored = await application.rooms.store.read(lambda tx: crls.get(tx, "issuing", 1, 3))
            assert stored is not None
            assert stored.der == body
            assert headers["last-modified"] == formatdate(stored.this_update, usegmt=True)
            assert headers["cache-control"] == "public, max-age=300"
            assert found.next_update_utc is not None
            for known in (
                f"If-None-Match: {headers['etag']}",
                f'If-None-Match: "other", W/{headers["etag"]}',
                "If-None-Match: *",
                f"If-Modified-Since: {headers['last-modified']}",
            ):
                again = await get(application, "/crl/issuing/3.crl", known)
                assert (again[0], again[2]) == (304, b"")
                assert again[1]["etag"] == headers["etag"]
            for other in (
                'If-None-Match: "0-0"',
                "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
                "If-Modified-Since: yesterday",
                # An entity tag counts more than a date (RFC 9110 section 13.2.2).
                f'If-None-Match: "x"\r\nIf-Modified-Since: {headers["last-modified"]}',
            ):
                assert (await get(application, "/crl/issuing/3.crl", other))[0] == 200
            head = await get(application, "/crl/issuing/3.crl", method="HEAD")
            assert head[0] == 200
            assert head[1]["content-length"] == str(len(body))

    run(scenario())


def test_a_revocation_changes_the_tag_at_once(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings, SystemClock()) as application:
            rooms = application.rooms
            sql = "SELECT id, crl_shard, serial FROM certificates WHERE profile = 'tls-server'"
            (row,) = await rooms.store.read(lambda tx: tx.all(sql))
            path = f"/crl/issuing/{row[1]}.crl"
            before = await get(application, path)
            await rooms.revoker.revoke(row[0], 4, SYSTEM)
            while True:
                after = await get(application, path, f"If-None-Match: {before[1]['etag']}")
                if after[0] == 200:
                    break
            listed = x509.load_der_x509_crl(after[2])
            assert [entry.serial_number for entry in listed] == [int.from_bytes(row[2], "big")]

    run(scenario())


def test_delta_and_whole_lists_have_addresses_of_their_own(settings: Settings) -> None:
    async def scenario() -> None:
        async with running(settings, SystemClock()) as application:
            for path in ("full.crl", "0-delta.crl", "full-delta.crl"):
                assert (await get(application, f"/crl/issuing/{path}"))[0] == 404
            await options(application, delta_seconds=3600, full_crl=True)
            whole = x509.load_der_x509_crl((await get(application, "/crl/issuing/full.crl"))[2])
            with pytest.raises(x509.ExtensionNotFound):
                whole.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
            for path, shard in (("0-delta.crl", 0), ("full-delta.crl", WHOLE)):
                status, headers, body = await get(application, f"/crl/issuing/{path}")
                assert status == 200
                assert headers["cache-control"] == "public, max-age=60"
                delta = x509.load_der_x509_crl(body)
                base = await application.rooms.store.read(
                    lambda tx, shard=shard: crls.get(tx, "issuing", 1, shard)  # type: ignore[misc]
                )
                assert base is not None
                indicator = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
                assert indicator.value.crl_number == base.number

    run(scenario())


def test_what_is_no_crl_of_ours_is_not_found(settings: Settings) -> None:
    """Another's name, odd spellings of a number, traversal: each has one address, and no more."""

    async def scenario() -> None:
        async with running(settings, SystemClock()) as application:
            for path in (
                *("nobody/0.crl", "issuing/16.crl", "issuing/01.crl", "issuing/-1.crl", "issuing/+1.crl"),
                *("issuing/1.CRL", "issuing/1", "issuing/1.crl/", "issuing/1.pem", "issuing/.crl"),
                *("issuing/9999999.crl", f"issuing/{'9' * 4000}.crl", "issuing/full", "issuing/%30.crl.x"),
                *("issuing/g1/0.crl", "issuing/g0/0.crl", "issuing/g2/0.crl", "issuing/g2/g2/0.crl"),
                *("../issuing/0.crl", "issuing/../../ca/issuing.crt", "issuing/\u0661.crl", "issuing", ""),
                *("issuing/0.crl%00", "root/1.crl"),
            ):
                target = "/crl/" + "".join(c if c.isascii() else "%D9%A1" for c in path)
                assert (await get(application, target))[0] in (404, 414), path
            assert (await get(application, "/crl/root/0.crl"))[0] == 200
            assert (await get(application, "/crl/issuing/15.crl"))[0] == 200
            for method in ("POST", "PUT", "DELETE"):
                assert (await exchange(application, method, "/crl/issuing/0.crl"))[0] in (404, 405)

    run(scenario())
