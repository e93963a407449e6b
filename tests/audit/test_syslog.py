"""Events leave by syslog: in the form RFC 5424 prescribes, at least once, and without holding anybody up.

The receivers are sockets with a strict parser of the RFC's grammar; `test_rsyslog` uses a real rsyslogd where
one is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certloom.audit import Origin, link, record, syslog
from certloom.audit.forwarding import Forwarder, TargetError, parse_target
from certloom.clock import ManualClock
from certloom.settings.schema import Audit
from certloom.store import Store, forwarding, open_store
from tests.conftest import run

# RFC 5424 section 6, whole and strict.
_NAME = r"[!#-<>-\\^-~]{1,32}"
_GRAMMAR = re.compile(
    rb"<(?P<pri>[1-9]\d{0,2}|0)>1 "
    rb"(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) "
    rb"(?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<proc>[!-~]{1,128}) (?P<msgid>[!-~]{1,32}) "
    + (rf'(?P<sd>(?:\[{_NAME}(?: {_NAME}="(?:[^"\\\]]|\\["\\\]])*")*\])+)').encode()
    + rb" (?P<msg>(?:\xef\xbb\xbf)?.*)",
    re.DOTALL,
)


def parse(text: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Header and event of a message. Fails for whatever the grammar does not allow."""
    found = _GRAMMAR.fullmatch(text)
    assert found is not None, text
    message = found["msg"]
    if message.startswith(b"\xef\xbb\xbf"):
        message = message[3:]
        assert not message.isascii()
    else:
        assert message.isascii(), "UTF-8 begins with the BOM"
    body = message.decode()
    assert not re.search("[\x00-\x1f\x7f-\x9f]", body)
    header = {name: value.decode() for name, value in found.groupdict().items() if name != "msg"}
    return header, json.loads(body)


def _row(sequence: int = 1, **changed: Any) -> tuple[Any, ...]:
    columns = {
        "id": 7,
        "at_ms": 1_800_000_000_123,
        "kind": "certificate.issued",
        "subject": "certificate:1",
        "actor": "person:1",
        "origin": "192.0.2.1",
        "trace": "0a",
        "data": '{"n":1}',
        **changed,
    }
    return (*columns.values(), sequence, b"\1" * 32)


def test_an_event_is_one_message_with_registered_structured_data() -> None:
    header, event = parse(syslog.message(_row(), "pki.example.com", "42", 2_048))
    assert header["pri"] == str(13 * 8 + 5)
    assert header["at"] == "2027-01-15T08:00:00.123Z"
    assert (header["host"], header["app"], header["proc"]) == ("pki.example.com", "certloom", "42")
    assert header["msgid"] == "certificate.issued"
    assert re.fullmatch(
        r'\[meta sequenceId="1"\]\[origin software="certloom" swVersion="[^"]+"\]', header["sd"]
    )
    assert (event["sequence"], event["hash"], event["data"]) == (1, "01" * 32, {"n": 1})


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": 'thing:"]\\\n\r\t\0\x1b[31m\x7f\x85\u2028'},
        {"data": '{"text":"ü\x7f\x9b"}'},
        {"actor": "person:日本"},
        {"kind": "a b\nc.é" * 30},
        {"kind": ""},
    ],
)
def test_whatever_an_event_holds_the_message_is_well_formed(changed: dict[str, Any]) -> None:
    _, event = parse(syslog.message(_row(**changed), "hö st", "", 2_048))
    for name, value in changed.items():
        assert event[name] == (json.loads(value) if name == "data" else value)


def test_a_message_too_long_is_shortened_and_still_json() -> None:
    text = syslog.message(
        _row(data=json.dumps({"x": "y" * 5_000}), subject="s" * 900, actor="ü" * 900), "h", "1", 2_048
    )
    assert len(text) <= 2_048
    _, event = parse(text)
    assert event["shortened"] is True
    assert event["subject"] == "s" * 200


def test_refusals_are_warnings_and_sequence_ids_wrap() -> None:
    header, _ = parse(syslog.message(_row(2**31, kind="request.denied"), "h", "1", 2_048))
    assert header["pri"] == str(13 * 8 + 4)
    assert 'sequenceId="1"' in header["sd"]


@pytest.mark.parametrize(
    "url", ["", "tcp://", "tcp://host", "http://host:1", "tcp://host:x", "tcp://h:1/p", "udp:h:1"]
)
def test_what_names_no_receiver_is_refused(url: str) -> None:
    with pytest.raises(TargetError):
        parse_target(url)


class Receiver:
    """A TCP (or TLS) receiver that reads octet-counted frames; it can be made to break off."""

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.break_after: int | None = None
        self.port = 0

    @contextlib.asynccontextmanager
    async def listen(self, context: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                length = int((await reader.readuntil(b" "))[:-1])
                _, event = parse(await reader.readexactly(length))
                self.sequences.append(event["sequence"])
                if self.break_after is not None and len(self.sequences) >= self.break_after:
                    self.break_after = None
                    writer.transport.abort()
                    return
        writer.close()


async def _record(store: Store, count: int) -> None:
    origin = Origin("person:ä", "2001:db8::1", "0a1b")
    for number in range(count):
        data = {"n": number}
        await store.write(partial(record, at_ms=1_000, kind="a.b", subject="a:1", origin=origin, data=data))
    await link(store)


def _forwarder(
    store: Store, clock: ManualClock, url: str, node: str = "one", roots: str = "", settle: float = 0
) -> Forwarder:
    return Forwarder(store, clock, node, Audit(syslog=url, syslog_roots=roots), settle=settle)


async def _until(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(10):
        while len(receiver.sequences) < count:
            await asyncio.sleep(0.01)


def test_every_event_arrives_in_order_over_tcp_and_only_once_where_nothing_breaks(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        receiver = Receiver()
        async with receiver.listen():
            await _record(store, 40)
            forwarder = _forwarder(store, clock, f"tcp://127.0.0.1:{receiver.port}")
            assert await forwarder.forward() == 40
            assert await forwarder.forward() == 0
            await _record(store, 5)
            assert await forwarder.forward() == 5
            await _until(receiver, 45)
            assert receiver.sequences == list(range(1, 46))
            forwarder.close()
            again = _forwarder(store, clock, f"tcp://127.0.0.1:{receiver.port}")
            await _record(store, 1)
            assert await again.forward() == 1, "a restarted process goes on where the other was"
            await _until(receiver, 46)
            assert receiver.sequences[45:] == [46]
            again.close()

    run(go())


def test_a_broken_connection_repeats_some_events_and_loses_none(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        receiver = Receiver()
        receiver.break_after = 7
        async with receiver.listen():
            await _record(store, 30)
            forwarder = _forwarder(store, clock, f"tcp://127.0.0.1:{receiver.port}", settle=0.5)
            async with asyncio.timeout(20):
                while await store.read(forwarding.sent) != 30:
                    await forwarder.forward()
                    await asyncio.sleep(0.05)
            assert len(receiver.sequences) == 37
            assert set(receiver.sequences) == set(range(1, 31))
            forwarder.close()

    run(go())


def test_without_a_receiver_nothing_is_lost_and_nobody_waits(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        await _record(store, 3)
        forwarder = _forwarder(store, clock, f"tcp://127.0.0.1:{port}")
        assert await forwarder.forward() == 0
        began = time.monotonic()
        assert await forwarder.forward() == 0, "the next try comes later"
        assert time.monotonic() - began < 0.5
        assert await store.read(forwarding.sent) == 0
        receiver = Receiver()
        async with receiver.listen(port=port), asyncio.timeout(10):
            while not await forwarder.forward():
                await asyncio.sleep(0.1)
            await _until(receiver, 3)
        forwarder.close()

    run(go())


def test_over_udp_each_event_is_one_datagram(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(5)
            await _record(store, 20)
            forwarder = _forwarder(store, clock, f"udp://127.0.0.1:{receiver.getsockname()[1]}")
            assert await forwarder.forward() == 20
            got = [parse(await asyncio.to_thread(receiver.recv, 65536))[1]["sequence"] for _ in range(20)]
            assert got == list(range(1, 21))
            forwarder.close()

    run(go())


def _certificate(path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "syslog.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (path / "roots.pem").write_bytes(pem)
    (path / "both.pem").write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path / "both.pem")
    return context


def test_over_tls_the_receiver_must_prove_its_name(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    async def go() -> None:
        receiver = Receiver()
        async with receiver.listen(_certificate(tmp_path)):
            await _record(store, 10)
            roots = str(tmp_path / "roots.pem")
            for url, trusted in (("tls://127.0.0.1", roots), ("tls://localhost", "")):
                stranger = _forwarder(store, clock, f"{url}:{receiver.port}", roots=trusted)
                assert await stranger.forward() == 0
            assert receiver.sequences == []
            forwarder = _forwarder(store, clock, f"tls://localhost:{receiver.port}", roots=roots)
            assert await forwarder.forward() == 10
            await _until(receiver, 10)
            assert receiver.sequences == list(range(1, 11))
            forwarder.close()

    run(go())


def test_one_node_at_a_time_sends(postgresql_url: str, clock: ManualClock) -> None:
    async def go() -> None:
        stores = [await open_store(postgresql_url, clock=clock) for _ in range(2)]
        receiver = Receiver()
        async with receiver.listen():
            url = f"tcp://127.0.0.1:{receiver.port}"
            one, two = (_forwarder(store, clock, url, node) for store, node in zip(stores, "ab", strict=True))
            await _record(stores[0], 10)
            assert sorted(await asyncio.gather(one.forward(), two.forward())) == [0, 10]
            await _record(stores[0], 5)
            sent = [await one.forward(), await two.forward()]
            assert sorted(sent) == [0, 5]
            clock.advance(61)  # the one that had the turn is gone for a minute
            await _record(stores[0], 5)
            assert await (two if sent[0] else one).forward() == 5
            await _until(receiver, 20)
            assert receiver.sequences == list(range(1, 21))
            one.close()
            two.close()
        for store in stores:
            await store.close()

    run(go())


@pytest.mark.skipif(shutil.which("rsyslogd") is None, reason="rsyslogd is not installed")
def test_rsyslog_takes_what_is_sent(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    out = tmp_path / "out.log"
    (tmp_path / "rsyslog.conf").write_text(
        f'module(load="imtcp")\ninput(type="imtcp" address="127.0.0.1" port="{port}")\n'
        'template(name="whole" type="string"'
        ' string="%pri%|%app-name%|%msgid%|%structured-data%|%timereported:::date-rfc3339%|%msg%\\n")\n'
        f'*.* action(type="omfile" file="{out}" template="whole")\n'
    )
    program = shutil.which("rsyslogd") or ""
    receiver = subprocess.Popen(
        [program, "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    async def go() -> list[str]:
        await _record(store, 25)
        forwarder = _forwarder(store, clock, f"tcp://127.0.0.1:{port}")
        async with asyncio.timeout(20):
            while not await forwarder.forward():
                await asyncio.sleep(0.1)
            while not out.exists() or len(out.read_text().splitlines()) < 25:
                await asyncio.sleep(0.1)
        forwarder.close()
        return [line for line in out.read_text().splitlines() if "|certloom|" in line]

    try:
        lines = run(go())
    finally:
        receiver.terminate()
        receiver.wait(10)
    assert len(lines) == 25
    for number, line in enumerate(lines, 1):
        pri, app, kind, data, at, message = line.split("|", 5)
        assert (pri, app, kind) == ("109", "certloom", "a.b")
        assert f'sequenceId="{number}"' in data
        assert at.startswith("1970-01-01T00:00:01")
        assert json.loads(message.lstrip("\ufeff"))["sequence"] == number
