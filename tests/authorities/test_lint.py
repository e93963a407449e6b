from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from certloom.authorities.base import AuthorityUnavailable
from certloom.authorities.lint import Linter, at_or_above, lint_certificate, shape_of
from certloom.authorities.lint_exceptions import EXCEPTIONS, Finding, exception_for
from certloom.authorities.lint_worker import raw_findings
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.pki.names import Name
from certloom.policy.decisions import CertificateContents, LintMode

CA = ec.generate_private_key(ec.SECP256R1())
KEY = ec.generate_private_key(ec.SECP256R1())
WEB = x509.DNSName("www.example.com")
EVERY, FIRST, OFF = LintMode.EVERY, LintMode.FIRST_OF_SHAPE, LintMode.OFF


def certificate(
    *names: x509.GeneralName,
    key: Any = KEY,
    common_name: str = "",
    days: float = 90,
    base: str = "http://ca.example.com:8080",
    authority_key_identifier: bool = True,
) -> bytes:
    """A certificate such as Certloom issues, for these names."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    start = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
    public = key.public_key()
    encipher = isinstance(key, rsa.RSAPrivateKey)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuing CA")]))
        .subject_name(x509.Name(subject))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.KeyUsage(True, False, encipher, False, False, False, False, False, False), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(
            x509.CRLDistributionPoints(
                [
                    x509.DistributionPoint(
                        [x509.UniformResourceIdentifier(f"{base}/crl/issuing/0.crl")], None, None, None
                    )
                ]
            ),
            False,
        )
        .add_extension(
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(
                        AuthorityInformationAccessOID.CA_ISSUERS,
                        x509.UniformResourceIdentifier(f"{base}/ca/issuing.cer"),
                    )
                ]
            ),
            False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), not subject)
    if authority_key_identifier:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.public_key()), False
        )
    return builder.sign(CA, hashes.SHA256()).public_bytes(Encoding.DER)


GOOD = certificate(WEB, common_name="www.example.com")
BAD = certificate(WEB, authority_key_identifier=False)
BAD_CODE = "pkix.authority_key_identifier_extension_absent"


def address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def mailbox(text: str) -> x509.RFC822Name:
    return x509.RFC822Name(text)


# --- what the linter says, and the exceptions -------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        (WEB,),
        (address("10.0.0.1"), address("fd00::1")),
        (x509.DNSName("xn--bcher-kva.example"), x509.DNSName("db.internal")),
        (mailbox("ann@example.com"), uri("https://example.com/a")),
    ],
)
def test_ordinary_certificates_have_no_findings_at_all(names: tuple[x509.GeneralName, ...]) -> None:
    assert raw_findings(certificate(*names)) == []


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        mldsa.MLDSA65PrivateKey.generate(),
    ],
    ids=["rsa", "p-521", "ed25519", "ed448", "ml-dsa-65"],
)
def test_no_kind_of_key_needs_an_exception(key: object) -> None:
    assert raw_findings(certificate(WEB, key=key)) == []


@pytest.mark.parametrize("days", [600 / 86400, 90, 10 * 365, 30 * 365])
def test_no_lifetime_needs_an_exception(days: float) -> None:
    assert raw_findings(certificate(WEB, days=days)) == []


@pytest.mark.parametrize(
    ("exception", "der"),
    [
        ("wildcard-name", certificate(x509.DNSName("*.example.com"))),
        ("wildcard-name", certificate(x509.DNSName("*.internal"))),
        ("single-label-host", certificate(x509.DNSName("localhost"))),
        ("single-label-host", certificate(mailbox("root@mailhost"))),
        ("single-label-host", certificate(uri("https://intranet/a"))),
        ("single-label-host", certificate(WEB, base="http://ca-host:8080")),
        ("private-top-level-label", certificate(x509.DNSName("db.rack1"))),
        ("private-top-level-label", certificate(x509.DNSName("db.x"))),
        ("private-top-level-label", certificate(WEB, base="http://ca.rack1:8080")),
        ("uri-scheme", certificate(uri("spiffe://prod.example/ns/a"))),
        ("uri-scheme", certificate(uri("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"))),
    ],
)
def test_each_exception_is_needed_and_enough(exception: str, der: bytes) -> None:
    raw = raw_findings(der)
    assert raw
    applied = [exception_for(finding) for finding in raw]
    assert {found.name for found in applied if found is not None} == {exception}
    assert lint_certificate(der) == []


def test_the_cas_own_addresses_may_be_plain_addresses() -> None:
    assert raw_findings(certificate(WEB, base="http://127.0.0.1:8080")) == []
    assert raw_findings(certificate(WEB, base="http://[fd00::1]:8080")) == []


@pytest.mark.parametrize(
    "der",
    [
        certificate(x509.DNSName("a-.example.com")),
        certificate(x509.DNSName("-a")),
        certificate(x509.DNSName("f*.example.com")),
        certificate(x509.DNSName("*.*.example.com")),
        certificate(x509.DNSName("*.")),
        certificate(x509.DNSName("a..b")),
        certificate(x509.DNSName("192.0.2.1")),
        certificate(x509.DNSName("12345")),
        certificate(x509.DNSName("a b")),
        certificate(mailbox("a b@host")),
        certificate(uri("spiffe://prod/a b")),
        certificate(uri("https://exa mple/")),
        certificate(uri("https://-intranet/")),
        BAD,
    ],
)
def test_no_exception_hides_what_is_truly_wrong(der: bytes) -> None:
    assert lint_certificate(der, "error")


def test_every_exception_has_a_reason_and_a_name_of_its_own() -> None:
    assert len({exception.name for exception in EXCEPTIONS}) == len(EXCEPTIONS)
    assert all(len(exception.reason) > 40 for exception in EXCEPTIONS)


@pytest.mark.parametrize("junk", [b"", b"\x30", b"\x30\x03\x02\x01\x05", b"not DER", GOOD[:-1]])
def test_what_is_no_certificate_is_a_fatal_finding(junk: bytes) -> None:
    assert [finding.severity for finding in lint_certificate(junk, "fatal")] == ["fatal"]


def test_findings_are_filtered_by_severity() -> None:
    found = [Finding(severity, "code", "", "path") for severity in ("notice", "warning", "error", "fatal")]
    assert [finding.severity for finding in at_or_above("error", found)] == ["error", "fatal"]


# --- the child process ------------------------------------------------------------------------


def test_the_child_says_what_the_linter_says() -> None:
    async def scenario() -> None:
        linter = Linter()
        try:
            assert await linter.check(GOOD, None, EVERY, "notice") == []
            assert [f.code for f in await linter.check(BAD, None, EVERY, "error")] == [BAD_CODE]
            assert await linter.check(BAD, None, EVERY, "fatal") == []
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_many_at_once_each_get_their_own_answer_from_one_child() -> None:
    async def scenario() -> None:
        linter = Linter()
        try:
            ders = [GOOD, BAD] * 8
            answers = await asyncio.gather(*(linter.check(der, None, EVERY, "error") for der in ders))
            assert [len(answer) for answer in answers] == [0, 1] * 8
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_a_shape_that_passed_is_not_linted_again_and_one_that_failed_is() -> None:
    async def scenario() -> None:
        linter = Linter()
        try:
            assert linter.needed(b"good", FIRST)
            assert await linter.check(GOOD, b"good", FIRST, "error") == []
            assert not linter.needed(b"good", FIRST)
            assert linter.needed(b"good", EVERY)
            assert linter.needed(None, FIRST)
            assert await linter.check(BAD, b"good", FIRST, "error") == []
            assert len(await linter.check(BAD, b"bad", FIRST, "error")) == 1
            assert len(await linter.check(BAD, b"bad", FIRST, "error")) == 1
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_lint_that_is_off_starts_nothing() -> None:
    async def scenario() -> None:
        linter = Linter()
        assert not linter.needed(b"shape", OFF)
        assert await linter.check(BAD, None, OFF, "error") == []
        assert linter.pid is None
        await linter.close()

    asyncio.run(scenario())


def test_an_idle_child_is_stopped_and_started_again_when_needed() -> None:
    async def scenario() -> None:
        linter = Linter(idle=0.1)
        try:
            await linter.check(GOOD, None, EVERY, "error")
            pid = linter.pid
            assert pid is not None
            await _until(lambda: linter.pid is None and not _alive(pid))
            assert len(await linter.check(BAD, None, EVERY, "error")) == 1
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_a_child_that_dies_stops_issuance_once_and_is_replaced() -> None:
    async def scenario() -> None:
        linter = Linter()
        try:
            await linter.start()
            assert linter.pid is not None
            waiting = asyncio.create_task(linter.check(GOOD, b"shape", FIRST, "error"))
            await asyncio.sleep(0)
            os.kill(linter.pid, 9)
            with pytest.raises(AuthorityUnavailable, match="ended unexpectedly") as caught:
                await waiting
            assert caught.value.code == "linter-unavailable"
            assert linter.needed(b"shape", FIRST)
            assert await linter.check(GOOD, None, EVERY, "error") == []
        finally:
            await linter.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "did not answer within"),
        ("import sys; sys.exit(3)", r"exit status 3"),
        (
            "import sys; sys.stdout.buffer.write(b'\\0\\0\\0\\1\\xff'); sys.stdout.flush(); sys.stdin.read()",
            "makes no sense",
        ),
    ],
    ids=["hangs", "exits", "babbles"],
)
def test_a_child_that_misbehaves_stops_issuance_and_is_removed(program: str, says: str) -> None:
    async def scenario() -> None:
        # Only the one that hangs is waited out; the others get the time that a busy machine may need.
        timeout = 0.5 if "sleep" in program else 30
        linter = Linter(timeout=timeout, command=(sys.executable, "-c", program))
        try:
            await linter.start()
            pid = linter.pid
            assert pid is not None
            with pytest.raises(AuthorityUnavailable, match=says):
                await linter.check(GOOD, None, EVERY, "error")
            await _until(lambda: not _alive(pid))
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_a_linter_that_cannot_be_started_stops_issuance(tmp_path: Path) -> None:
    async def scenario() -> None:
        linter = Linter(command=(str(tmp_path / "absent"),))
        with pytest.raises(AuthorityUnavailable, match="cannot be started"):
            await linter.check(GOOD, None, EVERY, "error")
        await linter.close()

    asyncio.run(scenario())


def test_a_caller_that_gives_up_does_not_take_anothers_answer() -> None:
    async def scenario() -> None:
        linter = Linter()
        try:
            await linter.start()
            first = asyncio.create_task(linter.check(BAD, None, EVERY, "error"))
            second = asyncio.create_task(linter.check(GOOD, None, EVERY, "error"))
            third = asyncio.create_task(linter.check(BAD, None, EVERY, "error"))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == []
            assert len(await third) == 1
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_closing_leaves_no_child_and_answers_who_waits() -> None:
    async def scenario() -> None:
        linter = Linter()
        await linter.start()
        pid = linter.pid
        assert pid is not None
        waiting = asyncio.create_task(linter.check(GOOD, None, EVERY, "error"))
        await asyncio.sleep(0)
        await linter.close()
        with pytest.raises(AuthorityUnavailable, match="stopped"):
            await waiting
        assert not _alive(pid)
        await linter.close()

    asyncio.run(scenario())


def test_a_child_does_not_outlive_a_server_that_is_killed() -> None:
    program = (
        "import asyncio, os\n"
        "from certloom.authorities.lint import Linter\n"
        "async def main():\n"
        "    linter = Linter()\n"
        "    await linter.start()\n"
        "    print(linter.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    pid = int(finished.stdout)

    async def wait() -> None:
        await _until(lambda: not _alive(pid))

    asyncio.run(wait())


def test_the_server_does_not_load_the_linter() -> None:
    program = (
        "import sys, certloom.authorities.lint\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pkilint', 'pyasn1')])"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert finished.stdout.strip() == "[]"


async def _until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# --- shapes -----------------------------------------------------------------------------------


def _spki(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


RSA_2048, RSA_3072 = (_spki(rsa.generate_private_key(65537, bits)) for bits in (2048, 3072))


def shape(
    names: Iterable[Identifier] = (Identifier(IdentifierType.DNS, "www.example.com"),),
    **changes: Any,
) -> bytes:
    values: dict[str, Any] = {
        "spki": _spki(KEY),
        "subject": Name((("2.5.4.3", "www.example.com"),)),
        "identifiers": tuple(names),
        "not_before": 1_800_000_000,
        "not_after": 1_807_776_000,
        "key_usage": ("digitalSignature",),
        "extended_key_usage": (),
        "extensions": (),
        "authority": "issuing",
        "profile": "web",
        "profile_version": 1,
        "lint": FIRST,
        "lint_level": "error",
    }
    issuer = changes.pop("issuer", b"")
    made = shape_of(CertificateContents(**(values | changes)), issuer)
    assert made is not None
    return made


def dns(name: str) -> Identifier:
    return Identifier(IdentifierType.DNS, name)


def test_certificates_that_differ_only_in_values_have_one_shape() -> None:
    other = _spki(ec.generate_private_key(ec.SECP256R1()))
    assert shape() == shape(
        (dns("a.example"), dns("b.example")),
        spki=other,
        subject=Name((("2.5.4.3", "a.example"),)),
        not_before=1_700_000_000,
    )


def test_what_the_linter_looks_at_makes_another_shape() -> None:
    shapes = [
        shape(),
        shape((dns("*.example.com"),)),
        shape((dns("www.example.com"), dns("*.example.com"))),
        shape((Identifier(IdentifierType.IP, "192.0.2.1"),)),
        shape((Identifier(IdentifierType.IP, "2001:db8::1"),)),
        shape((Identifier(IdentifierType.URI, "urn:a"),)),
        shape((Identifier(IdentifierType.EMAIL, "a@example.com"),)),
        shape(()),
        shape(subject=Name()),
        shape(spki=_spki(ec.generate_private_key(ec.SECP384R1()))),
        shape(spki=_spki(ed25519.Ed25519PrivateKey.generate())),
        shape(spki=_spki(ed448.Ed448PrivateKey.generate())),
        shape(spki=RSA_2048),
        shape(spki=RSA_3072),
        shape(not_after=3_000_000_000),
        shape(not_before=2_900_000_000, not_after=3_000_000_000),
        shape(profile="mail"),
        shape(profile_version=2),
        shape(authority="other"),
        shape(issuer=b"generation 2"),
    ]
    assert len(set(shapes)) == len(shapes)
