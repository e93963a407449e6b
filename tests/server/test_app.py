"""The whole server: listeners, pages, TLS, admin socket, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certloom.audit import SYSTEM
from certloom.clock import Clock, ManualClock, SystemClock
from certloom.identity.principals import Grant
from certloom.server.app import Application, build
from certloom.server.data_dir import DataDirError
from certloom.server.sockets import bind
from certloom.server.tls import TLSError
from certloom.settings import Settings
from certloom.settings.schema import Database, Listen
from certloom.unix_sockets import ListenError, connect_unix
from tests.server.listening import Client, run

COMMAND = Path(sys.executable).with_name("certloom")


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Application]:
    application = await build(settings, clock or SystemClock())
    try:
        await application.start()
        yield application
    finally:
        await application.close()


def port(application: Application, name: str) -> int:
    number: int = application.sockets[name].getsockname()[1]
    return number


async def get(application: Application, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Over plain HTTP."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port(application, "http")))
    await client.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return await client.answer(head=method == "HEAD")


async def over_tls(
    application: Application, path: str, name: str = "localhost", data: bytes = b""
) -> tuple[int, dict[str, str], bytes, x509.Certificate]:
    """Over HTTPS, trusting nothing but the installation's root."""
    context = ssl.create_default_context(cafile=str(application.rooms.data_dir.root_pem))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port(application, "https"), ssl=context, server_hostname=name
    )
    client = Client(reader, writer)
    method = "POST" if data else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    await client.send(head.encode() + data)
    answer = await client.answer()
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return *answer, x509.load_der_x509_certificate(der)


def test_plain_http_serves_ca_certificates_crls_and_health_but_not_acme(settings: Settings) -> None:
    async def main() -> None:
        async with running(settings) as application:
            status, headers, body = await get(application, "/ca/issuing.crt")
            assert (status, headers["content-type"]) == (200, "application/pkix-cert")
            issuing = x509.load_der_x509_certificate(body)
            (root,) = x509.load_pem_x509_certificates((await get(application, "/ca/roots.pem"))[2])
            issuing.verify_directly_issued_by(root)
            assert (await get(application, "/ca/issuing.pem"))[2].startswith(b"-----BEGIN CERTIFICATE")
            assert (
                application.rooms.data_dir.root_pem.read_bytes()
                == (await get(application, "/ca/roots.pem"))[2]
            )
            status, headers, body = await get(application, "/crl/issuing/3.crl")
            assert (status, headers["content-type"]) == (200, "application/pkix-crl")
            crl = x509.load_der_x509_crl(body)
            assert crl.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]  # an EC key
            assert (await get(application, "/crl/root/0.crl"))[0] == 200
            assert (await get(application, "/health"))[::2] == (200, b"ready\n")
            assert (await get(application, "/health/live"))[0] == 200
            assert (await get(application, "/"))[2].startswith(b"Certloom")
            assert (await get(application, "/", "HEAD"))[1]["content-length"] == str(
                len((await get(application, "/"))[2])
            )
            assert (await get(application, "/", "POST"))[0] == 405
            for path in (
                "/acme/default/directory",
                "/crl/issuing/16.crl",
                "/crl/issuing/03.crl",
                "/crl/issuing/-1.crl",
                "/crl/none/0.crl",
                "/ca/none.crt",
                "/ca/issuing.key",
                "/ca/../data.key",
            ):
                assert (await get(application, path))[0] == 404, path

    run(main())


def test_a_text_that_postgresql_cannot_even_compare_is_not_found(
    settings: Settings, postgresql_url: str
) -> None:
    async def main() -> None:
        database = Database(url=postgresql_url, connections=2)
        async with running(msgspec.structs.replace(settings, database=database)) as application:
            assert (await get(application, "/crl/%00/0.crl"))[0] == 404

    run(main())


@pytest.mark.parametrize("address", ["127.0.0.9", "localhost"])
def test_the_directory_that_follows_from_the_listener_is_reached_and_trusted(
    tmp_path: Path, address: str
) -> None:
    async def main() -> None:
        listen = Listen(https=f"{address}:0", http="127.0.0.1:0")
        async with running(Settings(data_dir=str(tmp_path / "data"), listen=listen)) as application:
            origin = application.rooms.origins.https
            assert origin == f"https://{address}:{port(application, 'https')}"
            context = ssl.create_default_context(cafile=application.rooms.data_dir.root_pem)
            _, writer = await asyncio.open_connection(address, port(application, "https"), ssl=context)
            writer.close()

    run(main())


def test_https_serves_acme_under_a_certificate_of_its_own_ca(settings: Settings) -> None:
    async def main() -> None:
        async with running(settings) as application:
            status, _, body, certificate = await over_tls(application, "/acme/default/directory")
            assert status == 200
            directory = msgspec.json.decode(body)
            origin = f"https://localhost:{port(application, 'https')}"
            assert directory["newOrder"].startswith(f"{origin}/acme/default/")
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert "localhost" in names.get_values_for_type(x509.DNSName)
            assert {str(a) for a in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
            status, headers, body, _ = await over_tls(
                application, "/acme/default/new-order", data=b"x" * 200_000
            )
            assert (status, headers["content-type"]) == (413, "application/problem+json")
            assert msgspec.json.decode(body)["type"] == "urn:ietf:params:acme:error:malformed"

    run(main())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused_and_tls_12_is_not(settings: Settings) -> None:
    async def main() -> None:
        async with running(settings) as application:
            for version, works in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
                context = ssl.create_default_context(cafile=str(application.rooms.data_dir.root_pem))
                context.set_ciphers("DEFAULT@SECLEVEL=0")
                context.minimum_version = context.maximum_version = version
                opening = asyncio.open_connection(
                    "127.0.0.1", port(application, "https"), ssl=context, server_hostname="localhost"
                )
                if works:
                    (await opening)[1].close()
                else:
                    with pytest.raises((ssl.SSLError, ConnectionError)):
                        await opening

    run(main())


def test_the_certificate_is_renewed_at_two_thirds_of_its_life_and_swapped_while_serving(
    settings: Settings,
) -> None:
    clock = ManualClock(int(time.time()) - 70 * 86_400)

    async def main() -> None:
        async with running(settings, clock) as application:
            first = (await over_tls(application, "/"))[3]
            await application.tls.keep()
            assert (await over_tls(application, "/"))[3] == first
            clock.advance(70 * 86_400)
            await application.tls.keep()
            second = (await over_tls(application, "/"))[3]
            assert second.serial_number != first.serial_number
            assert second.not_valid_after_utc > first.not_valid_after_utc

    run(main())


def test_the_certificate_is_kept_over_a_restart_and_sealed(settings: Settings) -> None:
    async def main() -> tuple[x509.Certificate, bytes]:
        async with running(settings) as application:
            certificate = (await over_tls(application, "/"))[3]
            return certificate, application.rooms.data_dir.https.read_bytes()

    first, sealed = run(main())
    assert first.public_bytes(serialization.Encoding.DER)[-64:] not in sealed
    assert run(main())[0] == first
    Path(settings.data_dir, "https.sealed").write_bytes(b"damaged")
    assert run(main())[0] != first


def test_a_new_public_url_gets_a_new_certificate_with_its_name(settings: Settings) -> None:
    async def main(settings: Settings, name: str) -> None:
        async with running(settings) as application:
            status, _, body, _ = await over_tls(application, "/acme/default/directory", name)
            assert status == 200
            assert f"https://{name}".encode() in body

    run(main(settings, "localhost"))
    run(main(msgspec.structs.replace(settings, public_url="https://pki.example.com"), "pki.example.com"))


def given_certificate(folder: Path, name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "own.pem", folder / "own.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(paths[0]), str(paths[1])


def test_a_certificate_from_the_settings_is_served_and_reloaded_when_it_changes(
    settings: Settings, tmp_path: Path
) -> None:
    certificate, key = given_certificate(tmp_path, "one.example")
    listen = msgspec.structs.replace(settings.listen, tls_certificate=certificate, tls_key=key)
    settings = msgspec.structs.replace(settings, listen=listen)

    async def served(application: Application) -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", port(application, "https"), ssl=context)
        der = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()

    async def main() -> None:
        async with running(settings) as application:
            assert await served(application) == "CN=one.example"
            Path(key).write_bytes(b"half written")
            await application.tls.keep()
            assert await served(application) == "CN=one.example"
            given_certificate(tmp_path, "two.example")
            await application.tls.keep()
            assert await served(application) == "CN=two.example"
        Path(key).write_bytes(b"nonsense")
        with pytest.raises(TLSError, match=r"listen\.tls_certificate"):
            async with running(settings):
                pass

    run(main())


def test_the_plain_acme_listener_has_an_origin_of_its_own(settings: Settings) -> None:
    listen = Listen(https="", http="", acme_plain="127.0.0.1:0")
    settings = msgspec.structs.replace(settings, listen=listen)

    async def main() -> None:
        async with running(settings) as application:
            number = port(application, "acme_plain")
            client = Client(*await asyncio.open_connection("127.0.0.1", number))
            await client.send(b"GET /acme/default/directory HTTP/1.1\r\nHost: evil\r\n\r\n")
            _, _, body = await client.answer()
            assert msgspec.json.decode(body)["newNonce"].startswith(f"http://127.0.0.1:{number}/acme/")

    run(main())


def test_the_admin_socket_is_its_owners_alone_and_answers_the_api(settings: Settings) -> None:
    deep = Path(settings.data_dir, "d" * 60, "e" * 60)  # longer than a socket's name may be
    settings = msgspec.structs.replace(settings, data_dir=str(deep))
    channel = b'{"protocol":"acme","name":"lab","profiles":["tls-server"]}'

    async def main() -> None:
        async with running(settings) as application:
            path = application.rooms.data_dir.admin_socket
            assert path.stat().st_mode & 0o777 == 0o600

            async def asked(method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
                client = Client(*await asyncio.open_unix_connection(sock=connect_unix(path)))
                # What a client says about itself is no part of it: the kernel tells who it is.
                head = (
                    f"{method} /api/v1{target} HTTP/1.1\r\nContent-Type: application/json\r\n"
                    f"Authorization: Bearer nonsense\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                await client.send(head.encode() + body)
                status, _, answer = await client.answer()
                return status, msgspec.json.decode(answer)

            status, made = await asked("PUT", "/channels/acme/lab", channel)
            assert (status, made["name"]) == (201, "lab")
            status, problem = await asked("GET", "/profiles/none")
            assert (status, problem["code"]) == (404, "not-found")
            actors = await application.rooms.store.scan(
                lambda tx: tx.all("SELECT DISTINCT actor FROM events WHERE actor <> 'system'")
            )
            assert actors == [(f"local:{'root' if os.geteuid() == 0 else os.getlogin()}",)]
        assert not path.exists()

    run(main())


def test_the_api_answers_over_https_and_nowhere_in_the_clear(settings: Settings) -> None:
    async def main() -> None:
        async with running(settings) as application:
            _, token = await application.rooms.store.write(
                lambda tx: application.rooms.credentials.create_token(
                    tx, grants=(Grant(role="auditor"),), origin=SYSTEM
                )
            )
            context = ssl.create_default_context(cafile=str(application.rooms.data_dir.root_pem))
            client = Client(
                *await asyncio.open_connection(
                    "127.0.0.1", port(application, "https"), ssl=context, server_hostname="localhost"
                )
            )
            head = "GET /api/v1/authorities HTTP/1.1\r\nHost: x\r\n"
            await client.send(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
            status, headers, body = await client.answer()
            assert (status, headers["content-type"]) == (200, "application/json")
            assert [a["name"] for a in msgspec.json.decode(body)["items"]] == ["issuing", "root"]
            await client.send(f"{head}\r\n".encode())
            status, headers, body = await client.answer()
            assert (status, headers["content-type"]) == (401, "application/problem+json")
            large = b"POST /api/v1/declarations HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
            await client.send(large)
            status, headers, body = await client.answer()
            assert (status, msgspec.json.decode(body)["code"]) == (413, "too-large")
            assert (await get(application, "/api/v1/version"))[0] == 404

    run(main())


def test_an_address_in_use_stops_the_start_before_anything_is_made(settings: Settings) -> None:
    taken = bind("127.0.0.1:0")
    taken.listen()
    listen = Listen(https="127.0.0.1:0", http=f"127.0.0.1:{taken.getsockname()[1]}")

    async def main() -> None:
        with pytest.raises(ListenError, match="Address already in use"):
            await build(msgspec.structs.replace(settings, listen=listen), SystemClock())

    run(main())
    taken.close()
    assert not Path(settings.data_dir).exists()


def test_one_server_at_a_time_uses_a_data_directory(settings: Settings) -> None:
    async def main() -> None:
        async with running(settings):
            with pytest.raises(DataDirError, match=f"process {os.getpid()}"):
                await build(settings, SystemClock())
        async with running(settings):
            pass

    run(main())


class Process:
    """``certloom serve`` as an operator starts it."""

    def __init__(self, folder: Path) -> None:
        config = folder / "certloom.toml"
        config.write_text(
            f'data_dir = "{folder}/data"\npublic_http_url = "http://pki.test"\n'
            '[listen]\nhttps = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\n[logging]\nformat = "text"\n'
        )
        self._output, self._log = folder / "stdout", folder / "stderr"
        with self._output.open("w") as output, self._log.open("w") as log:
            self.process = subprocess.Popen([COMMAND, "serve", "-c", config], stdout=output, stderr=log)

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_ready(self) -> None:
        for _ in range(200):
            if "CRLs: http" in self.output:
                time.sleep(0.1)
                return
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(self.log)

    def end(self) -> int:
        return self.process.wait(timeout=20)


def test_serve_tells_the_first_run_once_and_stops_gracefully_on_sigterm(tmp_path: Path) -> None:
    first = Process(tmp_path)
    first.wait_until_ready()
    first.process.send_signal(signal.SIGTERM)
    first.process.send_signal(signal.SIGTERM)  # as a supervisor that tells process and group
    assert first.end() == 0
    output, log = first.output, first.log
    assert "certbot certonly" in output
    assert "REQUESTS_CA_BUNDLE=" in output
    assert log.rstrip().endswith("stopped")
    assert output.split("--eab-hmac-key ")[1].split()[0] not in log
    assert output.split("Admin API token:")[1].split()[0] not in log
    second = Process(tmp_path)
    second.wait_until_ready()
    second.process.send_signal(signal.SIGINT)
    assert second.end() == 0
    assert "certbot" not in second.output


def test_serve_killed_in_the_first_run_completes_it_at_the_next_start(tmp_path: Path) -> None:
    for delay in (0.05, 0.3, 0.6):
        process = Process(tmp_path)
        time.sleep(delay)
        process.process.kill()
        process.end()
        if "certbot" in process.output:
            return  # this machine was fast enough to tell all of it
    last = Process(tmp_path)
    last.wait_until_ready()
    last.process.terminate()
    assert last.end() == 0
    assert "certbot certonly" in last.output


def test_a_second_sigterm_after_a_while_ends_it_hard(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.wait_until_ready()
    port = int(process.output.split("https://localhost:")[1].split("/")[0])
    context = ssl.create_default_context(cafile=str(tmp_path / "data" / "root.pem"))
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")  # a request that does not end
        process.process.terminate()
        time.sleep(1)
        assert process.process.poll() is None
        process.process.terminate()
        assert process.end() == 128 + signal.SIGTERM
