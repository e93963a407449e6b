from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from certloom.outbound.dns_message import CAARecord
from certloom.outbound.resolver import NoData, NoSuchName, Resolver, ResolverTimeout, ServerFailure
from certloom.outbound.system_dns import SystemDNS, parse_resolver
from tests.dns_server import Behaviour, serve_dns
from tests.outbound.conftest import Run

RECORDS = {
    ("www.example.com", "A"): ["192.0.2.1", "192.0.2.2"],
    ("www.example.com", "AAAA"): ["2001:db8::1"],
    ("four.example.com", "A"): ["192.0.2.4"],
    ("alias.example.com", "CNAME"): ["www.example.com"],
    ("text.example.com", "TXT"): ['"one"', '"two" "parts"'],
    ("example.com", "CAA"): ['0 issue "ca.example"', '128 Unknown "x"'],
}


def test_records_of_each_type_are_found(run: Run) -> None:
    with serve_dns(RECORDS) as server:
        resolver = Resolver([server.address])
        assert set(run(resolver.ipv4("www.example.com"))) == {"192.0.2.1", "192.0.2.2"}
        assert run(resolver.ipv6("www.example.com")) == ("2001:db8::1",)
        assert run(resolver.addresses("www.example.com"))[0] == "2001:db8::1"
        assert run(resolver.addresses("four.example.com")) == ("192.0.2.4",)
        assert set(run(resolver.ipv4("alias.example.com"))) == {"192.0.2.1", "192.0.2.2"}
        assert set(run(resolver.txt("text.example.com"))) == {b"one", b"twoparts"}
        assert set(run(resolver.caa("example.com"))) == {
            CAARecord(0, "issue", "ca.example"),
            CAARecord(128, "unknown", "x"),
        }


def test_what_is_not_there_is_told_apart(run: Run) -> None:
    with serve_dns(RECORDS) as server:
        resolver = Resolver([server.address])
        with pytest.raises(NoSuchName, match="NXDOMAIN"):
            run(resolver.ipv4("nothing.example.org"))
        with pytest.raises(NoData, match="no AAAA record"):
            run(resolver.ipv6("four.example.com"))
        with pytest.raises(NoSuchName):
            run(resolver.addresses("nothing.example.org"))
        with pytest.raises(NoSuchName, match="not a DNS name"):
            run(resolver.ipv4("a" * 64 + ".example"))


@pytest.mark.parametrize(("behaviour", "said"), [("servfail", "SERVFAIL"), ("refused", "REFUSED")])
def test_an_error_of_the_resolver_is_a_server_failure(run: Run, behaviour: Behaviour, said: str) -> None:
    with serve_dns(RECORDS) as server:
        server.behaviour["*"] = behaviour
        server.extended_error = (6, "DNSSEC bogus\n")
        with pytest.raises(ServerFailure, match=rf"{said} \(extended error 6 DNSSEC bogus"):
            run(Resolver([server.address]).ipv4("www.example.com"))


def test_a_malformed_answer_is_a_server_failure(run: Run) -> None:
    with serve_dns(RECORDS) as server:
        server.behaviour["*"] = "garbage"
        with pytest.raises(ServerFailure, match="malformed"):
            run(Resolver([server.address]).caa("example.com"))


def test_silence_is_a_timeout_and_takes_no_longer_than_allowed(run: Run) -> None:
    with serve_dns(RECORDS) as server:
        server.behaviour["*"] = "silent"
        started = time.monotonic()
        with pytest.raises(ResolverTimeout, match="no answer within"):
            run(Resolver([server.address], timeout_seconds=0.3).ipv4("www.example.com"))
        assert time.monotonic() - started < 1
        assert len(server.asked) == 2


def test_an_unreachable_resolver_fails_at_once(run: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ServerFailure, match="cannot be reached"):
        run(Resolver([f"127.0.0.1:{port}"]).ipv4("www.example.com"))
    assert time.monotonic() - started < 1


def test_a_second_resolver_steps_in_and_is_asked_first_from_then_on(run: Run) -> None:
    with serve_dns(RECORDS) as broken, serve_dns(RECORDS) as working:
        broken.behaviour["*"] = "servfail"
        resolver = Resolver([broken.address, working.address])
        assert run(resolver.ipv4("four.example.com")) == ("192.0.2.4",)
        assert run(resolver.ipv4("four.example.com")) == ("192.0.2.4",)
        assert len(broken.asked) == 1
        assert len(working.asked) == 2


def test_an_answer_that_is_cut_is_asked_for_again_over_tcp(run: Run) -> None:
    long = " ".join(f'"{letter * 250}"' for letter in "abcdefgh")
    with serve_dns({("big.example.com", "TXT"): [long]}) as server:
        expected = "".join(letter * 250 for letter in "abcdefgh").encode()
        assert run(Resolver([server.address]).txt("big.example.com")) == (expected,)
        assert [transport for _, _, transport in server.asked] == ["udp", "tcp"]


def test_a_resolver_without_edns_is_asked_without(run: Run) -> None:
    with serve_dns(RECORDS) as server:
        server.knows_edns = False
        assert run(Resolver([server.address]).ipv4("four.example.com")) == ("192.0.2.4",)


def test_nothing_is_remembered(run: Run) -> None:
    with serve_dns({("www.example.com", "A"): ["192.0.2.1"]}) as server:
        resolver = Resolver([server.address])
        assert run(resolver.ipv4("www.example.com")) == ("192.0.2.1",)
        server.records["www.example.com", "A"] = ["192.0.2.9"]
        assert run(resolver.ipv4("www.example.com")) == ("192.0.2.9",)


def test_with_dnssec_caa_answers_need_the_authentic_bit(run: Run) -> None:
    with serve_dns(RECORDS) as server:
        resolver = Resolver([server.address], dnssec=True)
        with pytest.raises(ServerFailure, match="DNSSEC"):
            run(resolver.caa("example.com"))
        assert run(resolver.ipv4("four.example.com")) == ("192.0.2.4",)
        server.authentic = True
        assert len(run(resolver.caa("example.com"))) == 2


def test_forged_datagrams_are_ignored(run: Run) -> None:
    """Answers to other questions may arrive first; the right one is still taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    listening.settimeout(5)

    def answer() -> None:
        query, client = listening.recvfrom(4096)
        question = query[12 : query.index(0, 12) + 5]
        counts = b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04"
        wrong_id = bytes((query[0] ^ 1, query[1]))
        listening.sendto(wrong_id + counts + question + record + b"\x7f\0\0\x01", client)
        listening.sendto(b"junk", client)
        listening.sendto(query[:2] + counts + question + record + b"\xc0\0\x02\x05", client)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        resolver = Resolver([f"127.0.0.1:{listening.getsockname()[1]}"])
        assert run(resolver.ipv4("www.example.com")) == ("192.0.2.5",)
    finally:
        thread.join()
        listening.close()


def test_the_hosts_file_counts_with_the_systems_resolvers_only(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(
        "# a comment\n192.0.2.77 Small.Host alias # more\n::1 alias\nbroken line\n"
    )
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions ndots:2\n")
    system = SystemDNS(str(tmp_path / "resolv.conf"), str(tmp_path / "hosts"))
    resolver = Resolver(system=system)
    assert run(resolver.ipv4("small.host")) == ("192.0.2.77",)
    assert run(resolver.addresses("alias")) == ("::1", "192.0.2.77")
    with pytest.raises(NoData, match="hosts file"):
        run(resolver.ipv6("small.host"))
    with serve_dns({}) as server, pytest.raises(NoSuchName):
        run(Resolver([server.address], system=system).ipv4("small.host"))


def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certloom.outbound.system_dns._LOOK_AGAIN_SECONDS", 0.0)
    path = tmp_path / "resolv.conf"
    system = SystemDNS(str(path), str(tmp_path / "hosts"))
    assert system.resolvers() == (("127.0.0.1", 53),)
    path.write_text("nameserver 192.0.2.1\nnameserver nonsense\nnameserver 2001:db8::53\n")
    assert system.resolvers() == (("192.0.2.1", 53), ("2001:db8::53", 53))
    assert system.hosts("localhost") == ()


def test_resolver_addresses_are_read() -> None:
    assert parse_resolver("192.0.2.1") == ("192.0.2.1", 53)
    assert parse_resolver("192.0.2.1:5353") == ("192.0.2.1", 5353)
    assert parse_resolver("2001:db8::1") == ("2001:db8::1", 53)
    assert parse_resolver("[2001:db8::1]") == ("2001:db8::1", 53)
    assert parse_resolver("[2001:db8::1]:5353") == ("2001:db8::1", 5353)


@pytest.mark.parametrize(
    "text", ["", "example.com", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "[::1", "[::1]x"]
)
def test_a_bad_resolver_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a resolver"):
        parse_resolver(text)


def test_a_resolver_on_ipv6_can_be_asked(run: Run) -> None:
    listening = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listening.bind(("::1", 0))
    port = listening.getsockname()[1]
    listening.close()
    with pytest.raises(ServerFailure, match="refused"):
        run(Resolver([f"[::1]:{port}"]).ipv4("www.example.com"))
