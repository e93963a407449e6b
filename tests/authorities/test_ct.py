"""Certificate Transparency before issuance, against logs that check what they take."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certloom.authorities.ct import CTLogs
from certloom.clock import ManualClock
from certloom.enrollment.errors import Refused, Unavailable
from certloom.server.rooms import Rooms
from certloom.settings import Settings, SettingsError
from certloom.settings.load import parse
from certloom.settings.schema import CT, Database, Listen, Logging, Outbound
from certloom.store import certificates as certificate_statements
from certloom.store.base import Tx
from tests.ct_log import CTLog, ct_logs
from tests.server.conftest import Installation, ask
from tests.server.enrolling import WEB, enrol

LOGGED = {**WEB, "name": "logged", "ct": {"logs": ["a", "b", "c"], "needed": 2}}


class Place:
    """An installation with three logs, which know its root."""

    def __init__(self, installation: Installation, logs: dict[str, CTLog]) -> None:
        self.installation = installation
        self.logs = logs

    def within(self, use: Callable[[Rooms], Coroutine[Any, Any, None]]) -> None:
        async def main(rooms: Rooms) -> None:
            def known(tx: Tx) -> list[bytes]:
                rows = tx.all("SELECT certificate FROM authorities WHERE name = 'root'")
                return [bytes(row[0]) for row in rows]

            for log in self.logs.values():
                log.roots = await rooms.store.read(known)
            await ask(rooms, "POST", "/declarations", {"document": {"profiles": [LOGGED]}})
            await use(rooms)

        self.installation.within(main)


@pytest.fixture
def place(tmp_path: Any, database_url: str) -> Iterator[Place]:
    """On each kind of database."""
    logs = {
        "a": CTLog([]),
        "b": CTLog([], key=rsa.generate_private_key(65537, 2048)),
        "c": CTLog([]),
    }
    settings = Settings(
        data_dir=str(tmp_path / "data"),
        public_http_url="http://pki.test",
        listen=Listen(https="127.0.0.1:0", http="127.0.0.1:0"),
        database=Database(url=database_url, connections=4),
        logging=Logging(level="error"),
        outbound=Outbound(allow_addresses=("127.0.0.0/8",)),
        ct=msgspec.convert(
            {"timeout_seconds": 2, "logs": {name: log.settings for name, log in logs.items()}}, CT
        ),
    )
    with ct_logs(*logs.values()):
        yield Place(Installation(settings), logs)


async def issued(rooms: Rooms, name: str = "www.corp.example") -> x509.Certificate:
    request = await enrol(rooms, name, "logged")
    id = request.certificate_id
    assert id is not None
    stored = await rooms.store.read(lambda tx: certificate_statements.get(tx, id))
    assert stored is not None
    return x509.load_der_x509_certificate(stored.der)


async def burned(rooms: Rooms) -> int:
    def unit(tx: Tx) -> int:
        return int(tx.all("SELECT count(*) FROM serials WHERE state = 'burned'")[0][0])

    return await rooms.store.read(unit)


def test_a_certificate_carries_what_the_logs_promised_and_is_what_they_saw(place: Place) -> None:
    async def use(rooms: Rooms) -> None:
        certificate = await issued(rooms)
        scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
        assert not scts.critical
        assert len({sct.log_id for sct in scts.value}) == 2
        assert {sct.log_id for sct in scts.value} <= {log.id for log in place.logs.values()}
        for log in place.logs.values():
            if log.id not in {sct.log_id for sct in scts.value}:
                continue
            ((precertificate, signed),) = log.entries
            assert precertificate.serial_number == certificate.serial_number
            # What cryptography makes of the certificate is what the log signed.
            assert certificate.tbs_precertificate_bytes == signed
        assert await burned(rooms) == 0
        assert sum(rooms.ct_logs.counts[name, "sct"] for name in place.logs) >= 2

    place.within(use)


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        ("wrong-signature", "nonsense"),
        ("another-log", "nonsense"),
        ("another-version", "nonsense"),
        ("future", "nonsense"),
        ("babbles", "nonsense"),
        ("floods", "unreachable"),
        ("hangs-up", "unreachable"),
        ("fails", "refused"),
        ("refuses", "refused"),
    ],
)
def test_a_log_that_fails_is_counted_and_the_others_serve(place: Place, behaviour: str, outcome: str) -> None:
    place.logs["a"].behaviour = behaviour

    async def use(rooms: Rooms) -> None:
        # The two others may be faster than the one that fails, so it is asked along with a slow one.
        place.logs["b"].behaviour = "refuses"
        with pytest.raises(Unavailable) as caught:
            await issued(rooms)
        assert caught.value.code == "ct-unavailable"
        assert rooms.ct_logs.counts["a", outcome] == 1
        assert rooms.ct_logs.trouble["a"].startswith(f"{outcome}: ")
        assert await burned(rooms) == 1
        place.logs["b"].behaviour = "good"
        certificate = await issued(rooms)
        scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
        assert {sct.log_id for sct in scts.value} == {place.logs["b"].id, place.logs["c"].id}

    place.within(use)


def test_a_slow_log_is_given_up_in_time(place: Place) -> None:
    place.logs["a"].behaviour = place.logs["b"].behaviour = "slow"

    async def use(rooms: Rooms) -> None:
        async with asyncio.timeout(8):
            with pytest.raises(Unavailable):
                await issued(rooms)
        assert await burned(rooms) == 1

    place.within(use)


def test_asks_that_cannot_succeed_sign_nothing_and_burn_nothing(place: Place) -> None:
    place.logs["a"].behaviour = place.logs["b"].behaviour = "fails"

    async def use(rooms: Rooms) -> None:
        for _ in range(5):
            with pytest.raises(Unavailable):
                await issued(rooms)
        assert await burned(rooms) == 1
        assert place.logs["c"].asked == 1

    place.within(use)


def test_a_log_that_does_not_know_the_root_refuses(place: Place) -> None:
    async def use(rooms: Rooms) -> None:
        place.logs["a"].roots = place.logs["b"].roots = []
        with pytest.raises(Unavailable):
            await issued(rooms)
        assert "does not end at a root" in rooms.ct_logs.trouble["a"]

    place.within(use)


def test_scts_with_extensions_are_carried(place: Place) -> None:
    for log in place.logs.values():
        log.behaviour = "extended"

    async def use(rooms: Rooms) -> None:
        certificate = await issued(rooms)
        scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
        assert all(sct.extension_bytes for sct in scts.value)

    place.within(use)


def test_both_forms_are_linted_before_either_is_signed(place: Place) -> None:
    async def use(rooms: Rooms) -> None:
        web = {**LOGGED, "lint": {"mode": "every", "rules": "cabf-tls", "level": "error"}}
        await ask(rooms, "POST", "/declarations", {"document": {"profiles": [web]}})
        with pytest.raises(Refused) as caught:
            await issued(rooms)
        assert {reason.code for reason in caught.value.reasons} == {"lint"}
        assert all("cabf." in reason.message or "pkix." in reason.message for reason in caught.value.reasons)
        assert not any(log.asked for log in place.logs.values())
        assert await burned(rooms) == 0

    place.within(use)


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"logs": ["a", "elsewhere"], "needed": 1}, "not configured: elsewhere"),
        ({"logs": ["a", "past"], "needed": 2}, "1 of the profile's take certificates that expire then"),
    ],
)
def test_what_the_settings_cannot_give_is_said(place: Place, terms: dict[str, Any], says: str) -> None:
    past = {**place.logs["b"].settings, "expires_from": "2020-01-01", "expires_until": "2021-01-01"}
    settings = place.installation.settings
    logs = {**settings.ct.logs, "past": msgspec.convert(past, type(settings.ct.logs["a"]))}
    place.installation.settings = msgspec.structs.replace(
        settings, ct=msgspec.structs.replace(settings.ct, logs=logs)
    )

    async def use(rooms: Rooms) -> None:
        await ask(rooms, "POST", "/declarations", {"document": {"profiles": [{**LOGGED, "ct": terms}]}})
        with pytest.raises(Refused, match=says) as caught:
            await issued(rooms)
        assert caught.value.code == "not-configured"

    place.within(use)


def test_settings_with_a_key_that_is_none_are_refused() -> None:
    async def make(key: str) -> None:
        settings = parse(f'[ct.logs.a]\nurl = "https://ct.example/"\nkey = "{key}"\n')
        nobody: Any = None
        CTLogs(settings.ct, nobody, ManualClock())

    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    der = p384.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for key in ("%%%", "AAAA", base64.b64encode(der).decode()):
        with pytest.raises(SettingsError, match=r"\$\.ct\.logs\.a\.key"):
            asyncio.run(make(key))


@pytest.mark.parametrize(
    "text",
    [
        '[ct.logs.a]\nurl = "ftp://x/"\nkey = "AA=="\n',
        '[ct.logs.a]\nurl = ""\nkey = "AA=="\n',
        '[ct.logs."A b"]\nurl = "https://x/"\nkey = "AA=="\n',
        '[ct.logs.a]\nurl = "https://x/"\nkey = ""\nexpires_from = 2027-01-01\nexpires_until = 2027-01-01\n',
    ],
)
def test_settings_of_logs_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"\$\.ct\.logs\."):
        parse(text)
