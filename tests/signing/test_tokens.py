"""Keys in PKCS#11 tokens: SoftHSM2, in this machine's processes and through p11-kit's remoting."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from certloom.clock import ManualClock
from certloom.pki import keys, signatures
from certloom.settings.tokens import Token
from certloom.signing import SigningRefused, SigningUnavailable
from certloom.signing.service import Service
from certloom.signing.tokens import PINS, BadURI, Tokens, TokenURI, parse
from certloom.signing.tokens.pins import TriedPINs
from tests.conftest import run
from tests.signing.making import KEY, ca_template, leaf
from tests.signing.softhsm import CLIENT, PIN, Remote, SoftHSM, needs_p11_kit, needs_softhsm


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHSM:
    return SoftHSM(tmp_path / "softhsm", monkeypatch)


@asynccontextmanager
async def tokens(folder: Path, *, patience: float = 10.0, **settings: Token) -> AsyncIterator[Tokens]:
    opened = Tokens(settings, folder, KEY, patience=patience)
    try:
        yield opened
    finally:
        await opened.close()


def check(spki: bytes, data: bytes, signature: bytes) -> None:
    public = keys.public_key(keys.facts_of(spki))
    signatures.verify(public, signatures.algorithm_for(public), signature, data)


@needs_softhsm
@pytest.mark.parametrize("algorithm", ["rsa-2048", "rsa-3072", "P-256", "P-384", "P-521"])
def test_a_hierarchy_stands_on_keys_that_never_leave_the_token(
    algorithm: str, token: SoftHSM, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with tokens(tmp_path, hsm=token.settings()) as hsm:
            service = Service(KEY, clock, tokens=hsm)
            now = clock.now()
            made = await service.generate(
                "c0ffee", "ca", "root", algorithm, "pkcs11:token=certloom;object=root"
            )
            der = await service.ca_certificate("c0ffee", None, ca_template(made.spki, now))
            root = x509.load_der_x509_certificate(der)
            root.verify_directly_issued_by(root)
            issued = x509.load_der_x509_certificate(await service.certificate("c0ffee", der, leaf(now)))
            issued.verify_directly_issued_by(root)
            status = (await service.status()).keys[0]
            assert status.token.startswith("pkcs11:token=certloom;serial=")
            assert "object=root;id=%C0%FF%EE" in status.token
            assert (status.algorithm, status.trouble) == (algorithm, "")

            responder = await service.generate("01", "ocsp", "root", algorithm, "pkcs11:token=certloom")
            for data, signature in zip(
                (b"one", b"two"), await service.sign("01", [b"one", b"two"]), strict=True
            ):
                check(responder.spki, data, signature)

            # The record alone is of no use without the token, and with it in another process it is.
            again = Service(KEY, clock, tokens=hsm)
            again.know("c0ffee", made.record)
            await again.certificate("c0ffee", der, leaf(now))

    run(scenario())


@needs_softhsm
def test_an_ra_key_decrypts_in_the_token(token: SoftHSM, tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with tokens(tmp_path, hsm=token.settings()) as hsm:
            service = Service(KEY, clock, tokens=hsm)
            made = await service.generate("0a", "ra", "scep", "rsa-2048", "pkcs11:token=certloom")
            public = load_der_public_key(made.spki)
            assert isinstance(public, RSAPublicKey)
            secret = os.urandom(16)
            sent = public.encrypt(secret, padding.PKCS1v15())
            assert await service.decrypt("0a", sent, "pkcs1") == secret
            assert await service.decrypt("0a", bytes([sent[0] ^ 1]) + sent[1:], "pkcs1") != secret
            oaep = public.encrypt(secret, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None))
            assert await service.decrypt("0a", oaep, "oaep-sha1") == secret
            # SoftHSM2 knows SHA-1 there and nothing else: an error, and no wrong answer.
            newer = public.encrypt(secret, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
            with pytest.raises(SigningRefused):
                await service.decrypt("0a", newer, "oaep-sha256")
            check(made.spki, b"x", (await service.sign("0a", [b"x"]))[0])

    run(scenario())


@needs_softhsm
def test_a_key_that_somebody_else_put_there_is_found(
    token: SoftHSM, tmp_path: Path, clock: ManualClock
) -> None:
    pem = tmp_path / "key.pem"
    for number, algorithm in ((1, "rsa:2048"), (2, "EC -pkeyopt ec_paramgen_curve:P-256")):
        subprocess.run(
            f"openssl genpkey -algorithm {algorithm.replace('rsa:2048', 'RSA')} -out {pem}",
            shell=True,
            check=True,
            capture_output=True,
        )
        token.util(
            "--import",
            str(pem),
            "--token",
            "certloom",
            "--pin",
            PIN,
            "--label",
            f"mine{number}",
            "--id",
            f"0{number}",
        )

    async def scenario() -> None:
        async with tokens(tmp_path, hsm=token.settings()) as hsm:
            service = Service(KEY, clock, tokens=hsm)
            for number in (1, 2):
                made = await service.attach(
                    f"k{number}", "ca", "root", f"pkcs11:token=certloom;object=mine{number}"
                )
                by_id = await service.attach(f"i{number}", "ca", "root", f"pkcs11:id=%0{number}")
                assert made.spki == by_id.spki
                der = await service.ca_certificate(f"k{number}", None, ca_template(made.spki, clock.now()))
                root = x509.load_der_x509_certificate(der)
                root.verify_directly_issued_by(root)
            for wrong in (
                "pkcs11:token=certloom;object=nobody",
                "pkcs11:token=certloom",
                "pkcs11:token=another;object=mine1",
                "pkcs11:object=mine1?pin-value=1234",
                "https://example.com/",
            ):
                with pytest.raises(SigningRefused) as caught:
                    await service.attach("x", "ca", "root", wrong)
                assert caught.value.code == "bad-request"

    run(scenario())


@needs_softhsm
@needs_p11_kit
@pytest.mark.parametrize("algorithm", ["P-256", "rsa-2048"])
def test_a_token_whose_process_is_killed_under_load_comes_back(
    algorithm: str, token: SoftHSM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(token, monkeypatch)
    remote.start()

    async def scenario() -> None:
        async with tokens(tmp_path, hsm=token.settings(CLIENT)) as hsm:
            spki, uri = await hsm.generate("pkcs11:token=certloom", algorithm, "ca", "ca")
            done = 0
            stopping = False

            async def work(worker: int) -> None:
                nonlocal done
                n = 0
                while not stopping:
                    data = f"{worker}/{n}".encode()
                    (signature,) = await hsm.sign_many(uri, algorithm, [data])
                    check(spki, data, signature)
                    n += 1
                    done += 1

            working = [asyncio.create_task(work(worker)) for worker in range(4)]
            for _ in range(3):
                before = done
                while done < before + 10:
                    await asyncio.sleep(0.01)
                remote.kill()
                await asyncio.sleep(0.3)
                await asyncio.to_thread(remote.start)
            before = done
            while done < before + 10:
                await asyncio.sleep(0.01)
            stopping = True
            await asyncio.gather(*working)
            assert hsm.trouble(uri) == ""

    try:
        run(scenario())
    finally:
        remote.kill()


@needs_softhsm
def test_a_module_s_process_that_is_killed_or_hangs_is_started_again(token: SoftHSM, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with tokens(tmp_path, hsm=token.settings(seconds=1)) as hsm:
            spki, uri = await hsm.generate("pkcs11:token=certloom", "P-256", "ca", "ca")
            for number in (signal.SIGKILL, signal.SIGSTOP):
                process = hsm._tokens[0]._process
                assert process is not None
                os.kill(process.pid, number)
                (signature,) = await hsm.sign_many(uri, "P-256", [b"x"])
                check(spki, b"x", signature)
                now = hsm._tokens[0]._process
                assert now is not None
                assert now.pid != process.pid

    run(scenario())


@needs_softhsm
def test_a_wrong_pin_is_tried_once_and_never_again(token: SoftHSM, tmp_path: Path) -> None:
    """Not in another process either, until it is another PIN or somebody says so."""
    token.write_pin("000000")

    async def scenario(expected: str) -> None:
        async with tokens(tmp_path, patience=0.5, hsm=token.settings()) as hsm:
            for _ in range(3):
                with pytest.raises(SigningUnavailable) as caught:
                    await hsm.find("pkcs11:token=certloom;object=x")
                assert caught.value.code == "token-locked"
            assert expected in str(caught.value)
            assert hsm.trouble("pkcs11:token=certloom;object=x")

    run(scenario("called this PIN wrong"))
    assert (tmp_path / PINS).stat().st_mode & 0o077 == 0
    assert b"000000" not in (tmp_path / PINS).read_bytes()
    # A new process: SoftHSM's flag says that a wrong PIN was given, and ours which.
    run(scenario("called this PIN wrong"))
    token.write_pin(PIN)

    async def right() -> None:
        async with tokens(tmp_path, hsm=token.settings()) as hsm:
            await hsm.generate("pkcs11:token=certloom", "P-256", "x", "ca")

    run(right())


def recording_module(folder: Path, body: str) -> tuple[str, ...]:
    """A stand-in for the module's process: a script that answers as a token would that behaves badly."""
    script = folder / "module.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time, pathlib
            from certloom.signing.tokens import messages as m
            log = pathlib.Path(sys.argv[1])
            def say(answer):
                data = m.encode(answer)
                sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data); sys.stdout.buffer.flush()
            while len(header := sys.stdin.buffer.read(4)) == 4:
                request = m.decode_request(sys.stdin.buffer.read(int.from_bytes(header, "big")))
                with log.open("a") as file:
                    file.write(type(request).__name__ + "\\n")
            """
        )
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return (sys.executable, str(script), str(folder / "log"))


@pytest.mark.parametrize(("flag", "tries"), [("final_try", 0), ("locked", 0), ("count_low", 1)])
def test_a_pin_is_not_tried_where_it_could_lock_the_token(flag: str, tries: int, tmp_path: Path) -> None:
    flags = {name: name == flag for name in ("count_low", "final_try", "locked")}
    command = recording_module(
        tmp_path,
        f"""
        if isinstance(request, m.Open):
            say(m.Opened("t", "1", True, {flags["count_low"]}, {flags["final_try"]}, {flags["locked"]}))
        elif isinstance(request, m.LogIn):
            say(m.Failed("pin", "the PIN is wrong"))
        """,
    )
    (tmp_path / "pin").write_text("1234")
    (tmp_path / "pin").chmod(0o600)
    settings = {"t": Token(module="x", pin_file=str(tmp_path / "pin"))}

    async def scenario() -> None:
        for _ in range(3):
            hsm = Tokens(settings, tmp_path, KEY, patience=0.2, command=command)
            for _ in range(2):
                with pytest.raises(SigningUnavailable) as caught:
                    await hsm.find("pkcs11:token=t;object=x")
                assert caught.value.code == "token-locked"
            await hsm.close()

    run(scenario())
    assert (tmp_path / "log").read_text().split().count("LogIn") == tries


@pytest.mark.parametrize(
    ("before", "low", "tries"), [("nothing", False, 1), ("taken", True, 1), ("taken", False, 4)]
)
def test_a_pin_whose_trial_crashed_is_tried_again_only_if_it_cannot_have_been_wrong(
    before: str, low: bool, tries: int, tmp_path: Path
) -> None:
    """It was taken once before, and the token does not say that a wrong one was given."""
    command = recording_module(
        tmp_path,
        f"""
        if isinstance(request, m.Open):
            tried = log.exists() and "LogIn" in log.read_text()
            say(m.Opened("t", "1", True, tried and {low}, False, False))
        else:
            sys.exit(1)
        """,
    )
    (tmp_path / "pin").write_text("1234")
    (tmp_path / "pin").chmod(0o600)
    if before == "taken":
        TriedPINs(tmp_path / PINS, KEY).note("1", "1234", "right")
    settings = {"t": Token(module="x", pin_file=str(tmp_path / "pin"))}

    async def scenario() -> None:
        for _ in range(4):
            hsm = Tokens(settings, tmp_path, KEY, patience=0, command=command)
            with pytest.raises(SigningUnavailable):
                await hsm.find("pkcs11:token=t;object=x")
            await hsm.close()

    run(scenario())
    assert (tmp_path / "log").read_text().split().count("LogIn") == tries


def test_without_a_module_or_a_pin_the_reason_is_said(tmp_path: Path) -> None:
    async def trouble(**settings: str) -> tuple[str, str]:
        hsm = Tokens({"t": Token(**settings)}, tmp_path, KEY, patience=0.1)  # type: ignore[arg-type]
        with pytest.raises(SigningUnavailable) as caught:
            await hsm.find("pkcs11:token=t;object=x")
        await hsm.close()
        return caught.value.code, str(caught.value)

    async def scenario() -> None:
        code, why = await trouble(module="/nowhere.so", pin_file="x")
        assert code == "token-unavailable"
        assert "/nowhere.so" in why

    run(scenario())


_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.builds(TokenURI, token=_TEXT, serial=_TEXT, object=_TEXT, id=st.binary(max_size=20)))
def test_a_uri_that_is_written_is_read_again(uri: TokenURI) -> None:
    assert parse(str(uri)) == uri


@given(st.text(max_size=60))
def test_any_text_is_a_uri_or_refused(text: str) -> None:
    for candidate in (text, f"pkcs11:{text}"):
        with suppress(BadURI):
            parse(candidate)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:token",
        "pkcs11:token=a;token=b",
        "pkcs11:token=%zz",
        "pkcs11:token=%ff",
        "pkcs11:unknown=1",
        "pkcs11:type=secret-key",
        "pkcs11:object=a?pin-value=1",
        "pkcs11:object=a?pin-source=file:/x",
        "pkcs11:" + "x" * 3000,
        "",
    ],
)
def test_what_is_no_uri_of_a_key_is_refused(text: str) -> None:
    with pytest.raises(BadURI):
        parse(text)
