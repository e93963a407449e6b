"""EST with strangers' clients, over real sockets: strongSwan, curl with openssl, gnutls, Python's ssl."""

from __future__ import annotations

import base64
import datetime
import email
import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certloom.pki import csr as csr_codec
from certloom.pki import keys, signatures
from certloom.pki.names import parse_name
from certloom.protocols.est.cmc_messages import TCRRequest
from tests.clients.est_server import Answer, Curl, ESTServer, folded, make_csr, make_key, openssl, verify
from tests.clients.lab import ADDRESS, Lab, environment, run, wait_for
from tests.clients.test_approvals import in_background
from tests.protocols.est.lab import Manufacturer, csr, new_key, subject
from tests.protocols.est.test_full_cmc import issued as issued_by_cmc
from tests.protocols.est.test_full_cmc import message, read
from tests.signing.softhsm import PIN, SoftHSM, needs_softhsm
from tests.strangers import installed

DAY = 86_400
WELL_KNOWN = "/.well-known/est"


@pytest.fixture(scope="module")
def server(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ESTServer]:
    server = ESTServer(tmp_path_factory.mktemp("est"), lab)
    with server:
        server.profile()
        yield server


@pytest.fixture
def curl(server: ESTServer, tmp_path: Path) -> Curl:
    return Curl(tmp_path / "curl", server.root)


# -- curl and openssl ------------------------------------------------------------------------------------

TLS = {"1.2": ("--tls-max", "1.2"), "1.3": ("--tlsv1.3",)}


@pytest.mark.parametrize("version", TLS)
@pytest.mark.parametrize("kind", ["P-256", "rsa-2048", "ed25519"])
def test_every_operation_with_curl_and_openssl(
    server: ESTServer, curl: Curl, tmp_path: Path, version: str, kind: str
) -> None:
    name = f"c{kind.lower()}-{version.replace('.', '')}.example.com"
    tls, url = TLS[version], server.https_client + WELL_KNOWN
    cas = curl.ask(f"{url}/cacerts", *tls).certificates()
    assert len(cas) == 2
    attributes = curl.ask(f"{url}/csrattrs", *tls)
    assert attributes.headers["content-type"] == "application/csrattrs"
    (tmp_path / "attributes.der").write_bytes(attributes.der)
    openssl(tmp_path, "asn1parse", "-inform", "DER", "-in", tmp_path / "attributes.der")

    user = server.user(f"u-{kind}-{version}".lower())
    key = make_key(tmp_path, kind)
    request = make_csr(tmp_path, key, f"/O=Acme/CN={name}", name)
    first = curl.ask(f"{url}/simpleenroll", "-u", user, *tls, body=folded(request)).certificate()
    verify(tmp_path, server.root, first, cas)
    (tmp_path / "first.pem").write_bytes(first.public_bytes(Encoding.PEM))

    own = ("--cert", tmp_path / "first.pem", "--key", key)
    fresh = make_key(tmp_path, kind, "fresh.pem")
    again = make_csr(tmp_path, fresh, f"/O=Acme/CN={name}", name)
    second = curl.ask(f"{url}/simplereenroll", *own, *tls, body=folded(again)).certificate()
    verify(tmp_path, server.root, second, cas)
    public = openssl(tmp_path, "pkey", "-in", fresh, "-pubout")
    assert public.encode() == second.public_key().public_bytes(
        Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    shown = server.local("GET", f"/certificates?fingerprint={first.fingerprint(hashes.SHA256()).hex()}")
    assert shown["items"][0]["replaced_by"] is not None

    made = curl.ask(f"{url}/serverkeygen", *own, *tls, body=folded(request))
    assert made.status == 200, made
    head = f"Content-Type: {made.headers['content-type']}\r\n\r\n".encode()
    parts = [p for p in email.message_from_bytes(head + made.body).walk() if not p.is_multipart()]
    private_der, certificate_der = (part.get_payload(decode=True) for part in parts)
    assert isinstance(private_der, bytes)
    assert isinstance(certificate_der, bytes)
    (tmp_path / "made.der").write_bytes(private_der)
    public = openssl(tmp_path, "pkey", "-inform", "DER", "-in", tmp_path / "made.der", "-pubout")
    (third,) = pkcs7.load_der_pkcs7_certificates(certificate_der)
    assert public.encode() == third.public_key().public_bytes(
        Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    whole = message(loaded, first, (TCRRequest(1, request),))  # type: ignore[arg-type]
    media = "application/pkcs7-mime; smime-type=CMC-request"
    cmc = curl.ask(f"{url}/fullcmc", *own, *tls, body=folded(whole), media=media)
    assert cmc.status == 200, cmc
    (tmp_path / "cmc.der").write_bytes(cmc.der)
    out = tmp_path / "response.der"
    trust = ("-CAfile", server.root, "-purpose", "any", "-binary", "-out", out)
    openssl(tmp_path, "cms", "-verify", "-inform", "DER", "-in", tmp_path / "cmc.der", *trust)
    assert len(issued_by_cmc(read(cmc.der))) == 1


@pytest.mark.parametrize("path", [WELL_KNOWN, f"{WELL_KNOWN}/default", f"/default{WELL_KNOWN}"])
def test_labels_and_old_http(server: ESTServer, curl: Curl, tmp_path: Path, path: str) -> None:
    user = server.user(f"label-{secrets.token_hex(4)}")
    request = make_csr(tmp_path, make_key(tmp_path, "P-256"), "/CN=label", "label.example.com")
    for body in (folded(request), base64.b64encode(request), request, _pem(request)):
        new = curl.ask(f"{server.https}{path}/simpleenroll", "-u", user, body=body)
        assert new.status == 200, new
        assert b"\n" not in new.body
    old = curl.ask(f"{server.https}{path}/simpleenroll", "-0", "-u", user, body=folded(request))
    assert max(map(len, old.body.split(b"\r\n"))) == 64
    assert old.der == new.der
    # openssl's own decoder reads what it folds itself.
    (tmp_path / "old.b64").write_bytes(old.body)
    openssl(tmp_path, "base64", "-d", "-in", tmp_path / "old.b64", "-out", tmp_path / "old.der")
    assert (tmp_path / "old.der").read_bytes() == new.der


def _pem(request: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + folded(request) + b"-----END CERTIFICATE REQUEST-----\n"


def test_a_post_quantum_key_over_basic(server: ESTServer, curl: Curl) -> None:
    key = keys.generate("ml-dsa-65")
    request = signatures.assemble(key, csr_codec.tbs_csr(parse_name("CN=pq"), keys.spki_of(key), ca=False))
    answer = curl.ask(
        f"{server.https}{WELL_KNOWN}/simpleenroll", "-u", server.user("pq"), body=folded(request)
    )
    assert answer.status == 200, answer
    assert keys.spki_of(key) in answer.der


# -- gnutls ----------------------------------------------------------------------------------------------


def test_requests_that_gnutls_makes(server: ESTServer, curl: Curl, tmp_path: Path) -> None:
    certtool = installed("certtool")
    env = environment(tmp_path)
    (tmp_path / "t.cfg").write_text('cn = "gnutls"\ndns_name = "g.example.com"\n')
    key, request = tmp_path / "g.key", tmp_path / "g.csr"
    run([*certtool, "--generate-privkey", "--key-type=ecdsa", "--curve=secp256r1", "--outfile", key], env=env)
    command: list[str | Path] = [
        *certtool,
        "--generate-request",
        "--no-text",
        "--load-privkey",
        key,
        "--template",
        tmp_path / "t.cfg",
    ]
    run([*command, "--outfile", request], env=env)
    url = server.https + WELL_KNOWN
    user = server.user("gnutls")
    # As it is: PEM.
    answer = curl.ask(f"{url}/simpleenroll", "-u", user, body=request.read_bytes())
    (tmp_path / "chain.pem").write_bytes(
        answer.certificate().public_bytes(Encoding.PEM)
        + b"".join(c.public_bytes(Encoding.PEM) for c in _below(curl.ask(f"{url}/cacerts")))
    )
    verified = run(
        [*certtool, "--verify", "--load-ca-certificate", server.root, "--infile", tmp_path / "chain.pem"],
        env=env,
    )
    assert "Verified" in verified


def _below(cas: Answer) -> list[x509.Certificate]:
    return [c for c in cas.certificates() if c.subject != c.issuer]


# -- strongSwan ------------------------------------------------------------------------------------------


class StrongSwan:
    """strongSwan's ``pki --est``."""

    def __init__(self, server: ESTServer, folder: Path, url: str) -> None:
        self._pki = installed("pki")
        self.server = server
        self.folder = folder
        self.url = url
        folder.mkdir(parents=True, exist_ok=True)

    def cas(self) -> list[str | Path]:
        """Trust for the further commands, fetched by ``--estca``."""
        out = self.folder / "ca.pem"
        trust: list[str | Path] = [
            "--cacert",
            self.server.root,
            "--caout",
            out,
            "--outform",
            "pem",
            "--force",
        ]
        run([*self._pki, "--estca", "--url", self.url, *trust], env=environment(self.folder))
        found: list[str | Path] = ["--cacert", self.server.root]
        for file in sorted(self.folder.glob("ca*.pem")):
            found += ["--cacert", file]
        return found

    def request(self, name: str, number: int = 1) -> tuple[Path, Path]:
        """A new key, and a request for it."""
        key, request = self.folder / f"key{number}.pem", self.folder / f"req{number}.pem"
        key.write_text(self._out("--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"))
        dn = ("--dn", f"C=DE, CN={name}", "--san", name)
        request.write_text(self._out("--req", "--in", key, *dn, "--outform", "pem"))
        return key, request

    def enroll(self, request: Path, *how: str | Path, expect: int = 0, poll: int = 10) -> str:
        """PEM of the certificate, or what was complained of."""
        waiting = ("--interval", "1", "--maxpolltime", str(poll))
        command: list[str | Path] = [
            "--est",
            "--url",
            self.url,
            "--in",
            request,
            *self.cas(),
            *how,
            *waiting,
            "--outform",
            "pem",
        ]
        done = subprocess.run(
            [str(part) for part in (*self._pki, *command)],
            env=environment(self.folder), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == expect, done.stderr
        return done.stderr if expect else done.stdout

    def _out(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [*self._pki, *map(str, arguments)], env=environment(self.folder), capture_output=True, text=True,
            check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize("label", ["", "/default"])
def test_strongswan_enrols_by_password_and_renews_by_certificate(
    server: ESTServer, tmp_path: Path, label: str
) -> None:
    client = StrongSwan(server, tmp_path / "pki", server.https_client + label)
    name = f"swan{len(label)}.example.com"
    key, request = client.request(name)
    refused = client.enroll(request, "--userpass", "nobody:wrong", expect=1)
    assert "HTTP 401" in refused
    first = client.enroll(request, "--userpass", server.user(f"swan{len(label)}"))
    (tmp_path / "pki" / "cert.pem").write_text(first)
    _, again = client.request(name, 2)
    second = client.enroll(again, "--cert", tmp_path / "pki" / "cert.pem", "--key", key)
    old, new = (x509.load_pem_x509_certificate(text.encode()) for text in (first, second))
    assert old.subject == new.subject
    assert old.public_key() != new.public_key()


def test_strongswan_polls_through_an_approval(lab: Lab, tmp_path: Path) -> None:
    server = ESTServer(tmp_path / "asking", lab)
    with server:
        server.profile(approval={"approvers": 1})
        # It polls at the address without its label (5.9.8), so the channel is the one that needs none.
        server.channel(poll_seconds=1)
        client = StrongSwan(server, tmp_path / "pki", server.https)
        user = server.user("patient", uses=1)
        _, request = client.request("patient.example.com")
        outcome = in_background(lambda: client.enroll(request, "--userpass", user, poll=30))
        wait_for("the question", lambda: bool(server.approvals()), 30)
        (approval,) = server.approvals()
        server.local("POST", f"/approvals/{approval['id']}/decisions", {"decision": "approve"})
        certificate = x509.load_pem_x509_certificate(outcome().encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["patient.example.com"]


# -- channel binding -------------------------------------------------------------------------------------


def test_a_request_is_bound_to_its_tls_session(server: ESTServer) -> None:
    server.channel(name="bound", channel_binding="required")
    user = base64.b64encode(server.user("bound").encode()).decode()

    def connect(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(server.root))
        context.maximum_version = version
        return context.wrap_socket(
            socket.create_connection((ADDRESS, server.client_port)), server_hostname=ADDRESS
        )

    def ask(connection: ssl.SSLSocket, unique: bytes | None) -> int:
        password = None if unique is None else base64.b64encode(unique).decode()
        body = base64.b64encode(csr(new_key(), "bound.example.com", password=password))
        connection.sendall(
            f"POST {WELL_KNOWN}/bound/simpleenroll HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {user}\r\n"
            f"Content-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return int(connection.recv(65536).split()[1])

    with connect() as one, connect() as other:
        mine, theirs = (each.get_channel_binding("tls-unique") for each in (one, other))
        assert mine is not None
        assert mine != theirs
        assert ask(one, theirs) == 403
    with connect() as one:
        assert ask(one, None) == 403
    with connect() as one:
        assert ask(one, one.get_channel_binding("tls-unique")) == 200
    with connect(ssl.TLSVersion.TLSv1_3) as one:
        assert ask(one, one.get_channel_binding("tls-unique")) == 403


# -- manufacturers' devices ------------------------------------------------------------------------------


def test_a_manufacturers_device_from_its_first_day_to_long_after(lab: Lab, tmp_path: Path) -> None:
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    acme, stranger = Manufacturer(start=now - 100 * DAY), Manufacturer("Stranger", start=now - 100 * DAY)
    server = ESTServer(tmp_path / "idevid", lab)
    with server:
        server.profile(
            subject=[{"type": "CN", "value": "{cert.serialNumber}"}, {"type": "O", "value": "Plant"}],
            names={
                "types": ["dns"],
                "from_certificate": ["dns:{cert.serialNumber}.devices.example.com"],
                "asked": False,
            },
            validity={"default": "30d", "backdate": "1h"},
        )
        server.anchors("acme", acme.root.public_bytes(Encoding.PEM).decode())
        options = {"anchors": ["acme"], "certificate_names": "profile", "accept": ["certificate"]}
        server.channel(**options)
        curl = Curl(tmp_path / "curl", server.root)
        url = server.https_client + WELL_KNOWN

        def device(maker: Manufacturer, serial: str, days: int = 3650) -> tuple[str | Path, ...]:
            key = new_key()
            held = maker.device(key, subject(CN="Sensor", serialNumber=serial), days=days)
            file = tmp_path / f"{serial}-{maker.root.subject.rfc4514_string()}.pem"
            pem, pkcs8 = Encoding.PEM, serialization.PrivateFormat.PKCS8
            file.write_bytes(
                held.public_bytes(pem)
                + maker.intermediate.public_bytes(pem)
                + key.private_bytes(pem, pkcs8, serialization.NoEncryption())
            )
            return ("--cert", file)

        key = make_key(tmp_path, "P-256")
        request = folded(make_csr(tmp_path, key, "/CN=anything"))
        # The server takes new anchors up within seconds, its TLS too.
        wait_for(
            "the anchors",
            lambda: curl.ask(f"{url}/simpleenroll", *device(acme, "SN-1"), body=request).status == 200,
        )
        first = curl.ask(f"{url}/simpleenroll", *device(acme, "SN-7"), body=request).certificate()
        assert first.subject.rfc4514_string() == "O=Plant,CN=SN-7"
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["sn-7.devices.example.com"]
        before = server.issued()
        # Of a wrong anchor: TLS itself ends it, or it does not count. Expired: it does not count.
        assert curl.ask(f"{url}/simpleenroll", *device(stranger, "SN-8"), body=request).status in (0, 403)
        assert curl.ask(f"{url}/simpleenroll", *device(acme, "SN-9", days=50), body=request).status == 403
        assert server.issued() == before

        (tmp_path / "first.pem").write_bytes(first.public_bytes(Encoding.PEM))
        own = ("--cert", tmp_path / "first.pem", "--key", key)
        renewed = curl.ask(f"{url}/simplereenroll", *own, body=request).certificate()
        assert renewed.subject == first.subject
        server.move_time(40 * DAY)
        late = curl.ask(f"{url}/simplereenroll", *own, body=request)
        assert late.status == 403, late
        assert b"expired" in late.body
        server.channel(**options, renew_expired=20 * DAY)
        again = curl.ask(f"{url}/simplereenroll", *own, body=request).certificate()
        assert again.subject == first.subject
        # One that was revoked renews nothing, expired or not.
        serial = f"{first.serial_number:x}"
        (row,) = server.local("GET", f"/certificates?serial={serial}")["items"]
        server.local("POST", f"/certificates/{row['id']}/revoke", {"reason": "superseded"})
        gone = curl.ask(f"{url}/simplereenroll", *own, body=request)
        assert gone.status == 403, gone
        assert b"revoked" in gone.body


# -- rollover --------------------------------------------------------------------------------------------


def test_cacerts_carries_a_root_over_to_the_next(lab: Lab, tmp_path: Path) -> None:
    server = ESTServer(tmp_path / "rollover", lab)
    with server:
        curl = Curl(tmp_path / "curl", server.root)
        url = f"{server.https}{WELL_KNOWN}/cacerts"
        old = curl.ask(url).certificates()
        server.cli("authority", "prepare", "root")
        wait_for("the next root", lambda: len(curl.ask(url).certificates()) > len(old))
        server.cli("authority", "activate", "root", "--force")
        wait_for("the link certificates", lambda: len(_links(curl.ask(url))) == 2)
        found = curl.ask(url).certificates()
        roots = [c for c in found if _is_self_signed(c)]
        assert len(roots) == 2
        for link in _links(curl.ask(url)):
            # Each is one root's name and key, signed by the other root's key.
            (of,) = [r for r in roots if r.public_key() == link.public_key()]
            (by,) = [r for r in roots if r is not of]
            assert link.subject == of.subject
            link.verify_directly_issued_by(by)
        # Who trusts the old root alone verifies what is issued now, by what /cacerts gave it.
        server.profile()
        request = make_csr(tmp_path, make_key(tmp_path, "P-256"), "/CN=r", "r.example.com")
        enroll = f"{server.https}{WELL_KNOWN}/simpleenroll"
        answer = curl.ask(enroll, "-u", server.user("r"), body=folded(request))
        (root,) = [c for c in old if _is_self_signed(c)]
        (tmp_path / "old-root.pem").write_bytes(root.public_bytes(Encoding.PEM))
        verify(tmp_path, tmp_path / "old-root.pem", answer.certificate(), found)


def _is_self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, InvalidSignature):
        return False
    return True


def _links(answer: Answer) -> list[x509.Certificate]:
    """Certificates of a root's name that another root signed."""
    found = answer.certificates()
    names = {c.subject for c in found if _is_self_signed(c)}
    return [c for c in found if c.subject in names and not _is_self_signed(c)]


# -- keys in a token -------------------------------------------------------------------------------------


@needs_softhsm
def test_the_issuing_key_may_be_in_a_token(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = SoftHSM(tmp_path / "softhsm", monkeypatch)
    section = {"module": token.settings().module, "token": "certloom", "pin_file": str(token.pin_file)}
    server = ESTServer(tmp_path / "server", lab, signer={"tokens": {"rack": section}})
    server.variables = {"SOFTHSM2_CONF": str(tmp_path / "softhsm" / "softhsm2.conf")}
    with server:
        made = ("--subject", "CN=HSM CA", "--algorithm", "P-256", "--key-in", "pkcs11:token=certloom")
        server.cli("authority", "create", "hsm", *made)
        server.profile(authority="hsm")
        curl = Curl(tmp_path / "curl", server.root)
        request = make_csr(tmp_path, make_key(tmp_path, "P-256"), "/CN=h", "h.example.com")
        url = server.https + WELL_KNOWN
        answer = curl.ask(f"{url}/simpleenroll", "-u", server.user("hsm"), body=folded(request))
        assert answer.certificate().issuer.rfc4514_string() == "CN=HSM CA"
        (ca,) = curl.ask(f"{url}/cacerts").certificates()
        assert ca.subject.rfc4514_string() == "CN=HSM CA"
        answer.certificate().verify_directly_issued_by(ca)
        assert PIN not in server.printed()


# -- what strangers should not send ----------------------------------------------------------------------


def test_bad_input_over_sockets(server: ESTServer, curl: Curl, tmp_path: Path) -> None:
    before = server.issued()
    url, user = server.https + WELL_KNOWN, server.user("bad")
    request = make_csr(tmp_path, make_key(tmp_path, "P-256"), "/CN=b", "b.example.com")
    for body, status in (
        (b"A" * 200_000, 413),
        (b"A" * 100_000, 400),
        (folded(request)[:-40], 400),
        (b"%%%", 400),
    ):
        assert curl.ask(f"{url}/simpleenroll", "-u", user, body=body).status == status
    assert curl.ask(f"{url}/simpleenroll", "-u", user, body=folded(request), media="text/plain").status == 415
    assert curl.ask(f"{url}/simpleenroll", body=folded(request)).status == 401
    assert curl.ask(f"{url}/simpleenroll", "-u", "bad:no", body=folded(request)).status == 401
    assert curl.ask(f"{url}/nothing").status == 404
    # Nobody is anybody by a header alone.
    forged = base64.b64encode(request).decode()
    for header in (f"Client-Cert: :{forged}:", f"X-SSL-Client-Cert: {forged}"):
        for operation in ("simpleenroll", "simplereenroll"):
            assert curl.ask(f"{url}/{operation}", "-H", header, body=folded(request)).status == 401
    # EST is not to be had without TLS.
    plain = f"http://{ADDRESS}:{server.http_port}{WELL_KNOWN}"
    assert curl.ask(f"{plain}/cacerts").status == 404
    assert server.issued() == before
