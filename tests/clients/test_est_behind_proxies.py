"""EST behind proxies at which TLS ends: HAProxy and nginx, with RFC 9440's header and with their own."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.pki.pem import to_pem
from tests.clients.est_server import Curl, ESTServer, folded, make_csr, make_key, openssl
from tests.clients.lab import ADDRESS, Lab, Program, environment, free_port, listening, wait_for
from tests.protocols.est.lab import Manufacturer, der_of, new_key, subject

PROXY = "127.77.0.9"
"""Where proxies connect from."""
DAY = 86_400
WELL_KNOWN = "/.well-known/est"
_NJS = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")

Start = Callable[[ESTServer, Path], tuple[Program, int]]


def _tls_files(server: ESTServer, folder: Path) -> None:
    """The proxy's own certificate, and the CAs whose clients it asks."""
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
        "2", "-subj", "/CN=proxy", "-addext", f"subjectAltName=IP:{ADDRESS}",
        "-keyout", folder / "proxy.key", "-out", folder / "proxy.crt",
    )  # fmt: skip
    (folder / "proxy.pem").write_bytes(
        (folder / "proxy.crt").read_bytes() + (folder / "proxy.key").read_bytes()
    )
    rows = server.local("GET", "/authorities")["items"]
    names = [row["name"] for row in rows]
    cas = [server.local("GET", f"/authorities/{name}")["certificate"] for name in names]
    (folder / "clients.pem").write_text("".join(cas))


def haproxy(server: ESTServer, folder: Path) -> tuple[Program, int]:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("haproxy is not installed")
    port = free_port()
    (folder / "haproxy.cfg").write_text(
        f"""
global
    log stdout format raw local0
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend est
    bind {ADDRESS}:{port} ssl crt {folder}/proxy.pem ca-file {folder}/clients.pem verify optional """
        f"""crt-ignore-err all ca-ignore-err all
    http-request del-header Client-Cert
    http-request del-header Client-Cert-Chain
    http-request set-header Client-Cert :%[ssl_c_der,base64]: if {{ ssl_c_used }}
    option forwardfor
    default_backend certloom
backend certloom
    source {PROXY}
    server c1 {ADDRESS}:{server.https_port} ssl verify required ca-file {server.root}
"""
    )
    command: list[str | Path] = [program, "-W", "-db", "-f", folder / "haproxy.cfg"]
    return Program(command, log=folder / "haproxy.log", env=environment(folder)), port


def _nginx(
    server: ESTServer, folder: Path, header: str, more: str = "", load: str = ""
) -> tuple[Program, int]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"""
{load}
{user}
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {more}
    server {{
        listen {ADDRESS}:{port} ssl;
        ssl_certificate {folder}/proxy.crt;
        ssl_certificate_key {folder}/proxy.key;
        ssl_verify_client optional_no_ca;
        location / {{
            proxy_set_header Client-Cert {header};
            proxy_set_header Client-Cert-Chain "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header Host $host;
            proxy_bind {PROXY};
            proxy_pass https://{ADDRESS}:{server.https_port};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {server.root};
            proxy_ssl_name localhost;
        }}
    }}
}}
""")
    command: list[str | Path] = [program, "-p", folder, "-c", folder / "nginx.conf"]
    return Program(command, log=folder / "nginx.log", env=environment(folder)), port


def nginx(server: ESTServer, folder: Path) -> tuple[Program, int]:
    return _nginx(server, folder, "$ssl_client_escaped_cert")


def nginx_with_njs(server: ESTServer, folder: Path) -> tuple[Program, int]:
    if not _NJS.exists():
        pytest.skip("nginx's njs module is not installed")
    (folder / "est.js").write_text(
        "function header(r) {\n"
        "    const pem = r.variables.ssl_client_raw_cert;\n"
        "    return pem ? ':' + pem.replace(/-----[^-]+-----|\\s/g, '') + ':' : '';\n"
        "}\nexport default { header };\n"
    )
    more = f"js_path {folder};\n    js_import est from est.js;\n    js_set $client_cert_9440 est.header;"
    return _nginx(server, folder, "$client_cert_9440", more, f"load_module {_NJS};")


@pytest.fixture(scope="module")
def server(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ESTServer]:
    server = ESTServer(tmp_path_factory.mktemp("behind"), lab, proxy={"trusted": [PROXY]})
    with server:
        server.profile()
        server.channel(renew_expired=20 * DAY)
        yield server


@pytest.mark.parametrize("start", [haproxy, nginx, nginx_with_njs])
def test_clients_enrol_and_renew_through_a_proxy(server: ESTServer, start: Start, tmp_path: Path) -> None:
    _tls_files(server, tmp_path)
    program, port = start(server, tmp_path)
    try:
        wait_for(program_name := start.__name__, lambda: program.check() and listening(port))
        curl = Curl(tmp_path / "curl", tmp_path / "proxy.crt")
        url = f"https://{ADDRESS}:{port}{WELL_KNOWN}"
        key, name = make_key(tmp_path, "P-256"), f"{program_name.replace('_', '-')}.example.com"
        request = folded(make_csr(tmp_path, key, f"/CN={name}", name))
        assert len(curl.ask(f"{url}/cacerts").certificates()) == 2
        user = server.user(f"behind-{program_name.replace('_', '-')}")
        first = curl.ask(f"{url}/simpleenroll", "-u", user, body=request).certificate()
        # The audit log knows the client, not the proxy.
        events = server.local("GET", "/audit/events?kind=certificate.issued&limit=1000")["items"]
        serial = f"{first.serial_number:032x}"
        (event,) = [e for e in events if e["data"]["serial"] == serial]
        assert event["origin"] == "127.0.0.1", event

        (tmp_path / "first.pem").write_bytes(first.public_bytes(Encoding.PEM))
        own = ("--cert", tmp_path / "first.pem", "--key", key)
        again = folded(make_csr(tmp_path, make_key(tmp_path, "P-256", "new.pem"), f"/CN={name}", name))
        second = curl.ask(f"{url}/simplereenroll", *own, body=again)
        assert second.certificate().subject == first.subject
        # Without a certificate, and with a header of one's own, one is nobody.
        forged = f"Client-Cert: :{_in_base64(der_of(first))}:"
        for headers in ((), ("-H", forged), ("-H", forged.replace("Client-Cert", "client-cert"))):
            assert curl.ask(f"{url}/simplereenroll", *headers, body=again).status == 401
        # A stranger's certificate gets through the proxy, and not in.
        strange_key = tmp_path / "strange.pem"
        maker = Manufacturer()
        held_key = new_key()
        held = maker.device(held_key, subject(CN=name))
        strange_key.write_bytes(
            to_pem(der_of(held))
            + held_key.private_bytes(
                Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        assert curl.ask(f"{url}/simplereenroll", "--cert", strange_key, body=again).status == 401
    finally:
        program.stop()


def test_from_elsewhere_the_header_is_nothing(server: ESTServer, tmp_path: Path) -> None:
    curl = Curl(tmp_path / "curl", server.root)
    key = make_key(tmp_path, "P-256")
    request = folded(make_csr(tmp_path, key, "/CN=direct", "direct.example.com"))
    url = server.https + WELL_KNOWN
    first = curl.ask(f"{url}/simpleenroll", "-u", server.user("direct"), body=request).certificate()
    header = ("-H", f"Client-Cert: :{_in_base64(der_of(first))}:")
    before = server.issued()
    assert curl.ask(f"{url}/simplereenroll", *header, body=request).status == 401
    trusted = ("--interface", PROXY)
    assert curl.ask(f"{url}/simplereenroll", *header, *trusted, body=request).status == 200
    assert server.issued() == before + 1
    assert curl.ask(f"{url}/simplereenroll", *header, *header, *trusted, body=request).status == 400
    assert curl.ask(f"{url}/simplereenroll", "-H", "Client-Cert: x", *trusted, body=request).status == 400


# nginx answers an expired certificate itself, with 400.
@pytest.mark.parametrize("start", [haproxy])
def test_an_expired_certificate_renews_itself_through_a_proxy(lab: Lab, start: Start, tmp_path: Path) -> None:
    server = ESTServer(tmp_path / "server", lab, proxy={"trusted": [PROXY]})
    with server:
        # It begins, and ends, in the past: of the proxy's clock, too.
        server.move_time(-40 * DAY)
        server.profile(validity={"default": "30d", "backdate": "1h"})
        key = make_key(tmp_path, "P-256")
        request = folded(make_csr(tmp_path, key, "/CN=late", "late.example.com"))
        direct = Curl(tmp_path / "direct", server.root)
        url = server.https + WELL_KNOWN
        first = direct.ask(f"{url}/simpleenroll", "-k", "-u", server.user("late"), body=request).certificate()
        server.move_time(40 * DAY)
        (tmp_path / "first.pem").write_bytes(first.public_bytes(Encoding.PEM))
        _tls_files(server, tmp_path)
        program, port = start(server, tmp_path)
        try:
            wait_for(start.__name__, lambda: program.check() and listening(port))
            curl = Curl(tmp_path / "curl", tmp_path / "proxy.crt")
            url = f"https://{ADDRESS}:{port}{WELL_KNOWN}"
            own = ("--cert", tmp_path / "first.pem", "--key", key)
            refused = curl.ask(f"{url}/simplereenroll", *own, body=request)
            assert refused.status == 401, refused
            assert b"expired" in refused.body
            server.channel(renew_expired=20 * DAY)
            assert curl.ask(f"{url}/simplereenroll", *own, body=request).status == 200
        finally:
            program.stop()


def _in_base64(der: bytes) -> str:
    return base64.b64encode(der).decode()
