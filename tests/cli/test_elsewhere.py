"""The command line against a server elsewhere: tokens, sessions, client certificates, and two people."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from tests.cli.shell import COMMAND, Shell

PROFILE = """
[[profiles]]
name = "asked"
authority = "issuing"
keys = [{ type = "ec" }]
server_keys = { algorithms = ["P-256"] }
names = { types = ["dns"] }
extended_key_usage = ["serverAuth", "clientAuth"]
validity = { default = "30d", max = "60d" }
approval = { approvers = 1, may_change = ["validity"] }
lint = { mode = "off" }
"""
PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """On the server's own machine, with a profile that people must agree to and two people."""
    shell = Shell(tmp_path_factory.mktemp("operator"))
    shell.config.write_text(shell.config.read_text() + 'https_client = "127.0.0.1:0"\n')
    process = shell.serve()
    shell("apply", "-f", "-", text=PROFILE)
    for name, roles in (("alice", ["requester", "approver"]), ("bob", ["approver"])):
        shell("person", "create", name, *(word for role in roles for word in ("--role", role)))
        shell("person", "password", name, "--password-file", "-", text=PASSWORD + "\n")
    yield shell
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def person(operator: Shell, folder: Path, name: str) -> Shell:
    """Somebody at a machine of their own, logged in."""
    shell = operator.elsewhere(folder / name)
    assert f"Logged in as {name}" in shell("login", name, "--password-file", "-", text=PASSWORD + "\n")
    return shell


def write_csr(
    path: Path, name: str, key: ec.EllipticCurvePrivateKey | None = None
) -> x509.CertificateSigningRequest:
    key = key or ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(csr.public_bytes(serialization.Encoding.PEM))
    return csr


def test_a_session_is_kept_for_its_owner_alone_until_logout(operator: Shell, tmp_path: Path) -> None:
    alice = person(operator, tmp_path, "alice")
    kept = alice.folder / "xdg/certloom/sessions.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in kept.read_text()
    who = alice.json("whoami")
    assert (who["kind"], who["name"]) == ("person", "alice")
    # Neither may she: another's business.
    assert "permission person.read" in alice("person", "list", status=7)
    alice("logout")
    assert "log in" in alice("whoami", status=7)


def test_a_wrong_password_exits_with_7_and_keeps_no_session(operator: Shell, tmp_path: Path) -> None:
    stranger = operator.elsewhere(tmp_path / "stranger")
    stranger("login", "alice", "--password-file", "-", text="wrong password here\n", status=7)
    assert not (stranger.folder / "xdg").exists()


def test_a_setup_code_sets_a_password_and_begins_a_session(operator: Shell, tmp_path: Path) -> None:
    operator("person", "create", "carol", "--role", "auditor")
    (tmp_path / "code").write_text(operator.json("person", "setup", "carol")["code"])
    carol = operator.elsewhere(tmp_path / "carol")
    carol("login", "--setup-code", str(tmp_path / "code"), "--password-file", "-", text=PASSWORD + "\n")
    assert "carol" in carol("whoami")
    operator("person", "disable", "carol")
    carol("whoami", status=7)


def test_a_setup_code_goes_from_file_to_login_without_being_shown(operator: Shell, tmp_path: Path) -> None:
    operator("person", "create", "carl", "--role", "auditor")
    file = tmp_path / "code"
    told = operator("person", "setup", "carl", "--secret-file", str(file))
    code = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert code not in told
    assert "expires" in told
    carl = operator.elsewhere(tmp_path / "carl")
    assert "no terminal" in carl("login", "--password-file", "-", text=PASSWORD + "\n", status=2)
    words = ("login", "--setup-code", "-", "--password-file", "-")
    assert "is empty" in carl(*words, text=f"{code}\n", status=2)
    assert "Logged in as carl" in carl(*words, text=f"{code}\n{PASSWORD}\n")
    assert "carl" in carl("whoami")


def test_a_token_proves_who_asks_from_a_file_or_the_environment(operator: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = operator.json(
        "token", "create", "--role", "auditor", "--service", "robot", "--secret-file", str(file)
    )
    assert made["secret"] is None
    assert file.stat().st_mode & 0o777 == 0o600
    robot = operator.elsewhere(tmp_path / "robot")
    assert robot.json("whoami", "--token-file", str(file))["owner"] == "service:robot"
    robot.remote["CERTLOOM_TOKEN"] = file.read_text().strip()
    assert "asked" in robot("profile", "list")
    assert "permission profile.write" in robot("apply", "-f", "-", text=PROFILE, status=7)
    operator("token", "revoke", made["id"])
    robot("profile", "list", status=7)
    robot.remote["CERTLOOM_TOKEN"] = "two words"
    assert "holds no token" in robot("profile", "list", status=2)


def test_a_client_certificate_proves_who_asks(operator: Shell, tmp_path: Path) -> None:
    key, cert = tmp_path / "robot.key", tmp_path / "robot.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    write_csr(tmp_path / "robot.csr", "robot.example.com", private)
    operator(
        "request", "submit", "--profile", "tls-client", "--csr", str(tmp_path / "robot.csr"), "-o", str(cert)
    )
    digest = operator("key", "digest", str(cert)).strip()
    words = ("--kind", "client-certificate", "--spki", digest, "--service", "robot", "--role", "auditor")
    operator("credential", "create", *words)
    lines = (json.loads(line) for line in (operator.folder / "stderr").read_text().splitlines())
    (address,) = (line["at"] for line in lines if line.get("listener") == "https_client")
    robot = operator.elsewhere(tmp_path / "robot", CERTLOOM_SERVER=f"https://{address}")
    assert robot.json("whoami", "--cert", str(cert), "--key", str(key))["kind"] == "client-certificate"
    robot("whoami", status=7)
    robot("whoami", "--cert", str(key), status=2)


def test_a_server_that_is_not_trusted_or_not_there_exits_with_4(operator: Shell, tmp_path: Path) -> None:
    stranger = operator.elsewhere(tmp_path / "stranger")
    del stranger.remote["CERTLOOM_CA_FILE"]
    assert "not trusted" in stranger("status", status=4)
    assert "cannot reach" in stranger("status", "--server", "https://127.0.0.1:1", status=4)
    assert "expected https://" in stranger("status", "--server", "http://127.0.0.1:1", status=2)
    assert "--server" in operator("status", "--ca-file", str(operator.config), status=2)


def test_what_people_must_agree_to_waits_and_is_issued_as_they_changed_it(
    operator: Shell, tmp_path: Path
) -> None:
    alice, bob = person(operator, tmp_path, "alice"), person(operator, tmp_path, "bob")
    csr = write_csr(tmp_path / "a.csr", "a.example.com")
    words = ("request", "submit", "--profile", "asked", "--csr", str(tmp_path / "a.csr"))
    assert "certloom request wait" in alice(*words, "-m", "please", status=6)
    (approval,) = bob.json("approval", "list", "--mine")
    assert "please" in bob("approval", "show", approval["id"])
    assert "own behalf" in alice("approval", "approve", approval["id"], status=7)
    assert "granted" in bob("approval", "approve", approval["id"], "--lifetime", "10d", "-r", "fine")
    (request,) = alice.json("request", "list", "--state", "issued", "--approval", approval["id"])
    output = tmp_path / "a.pem"
    alice("request", "wait", request["id"], "-o", str(output))
    leaf, *above = x509.load_pem_x509_certificates(output.read_bytes())
    assert leaf.public_key() == csr.public_key()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days < 11
    assert above
    # Agreed once, the same is issued at once; and another's no is told with its reason.
    alice(*words)
    write_csr(tmp_path / "b.csr", "b.example.com")
    alice("request", "submit", "--profile", "asked", "--csr", str(tmp_path / "b.csr"), status=6)
    (approval,) = bob.json("approval", "list", "--mine")
    bob("approval", "deny", approval["id"], status=2)
    bob("approval", "deny", approval["id"], "--reason", "not on my watch")
    (denied,) = alice.json("request", "list", "--state", "denied")
    assert "not on my watch" in alice("request", "wait", denied["id"], status=1)


def test_a_key_that_the_server_makes_is_fetched_while_the_command_waits(
    operator: Shell, tmp_path: Path
) -> None:
    alice, bob = person(operator, tmp_path, "alice"), person(operator, tmp_path, "bob")
    output, key = tmp_path / "c.pem", tmp_path / "c.key"
    words = ["request", "submit", "--profile", "asked", "--new-key", "P-256", "--name", "c.example.com"]
    words += ["--wait", "--timeout", "60s", "-o", str(output), "--key-output", str(key)]
    waiting = subprocess.Popen([COMMAND, *words], env=alice.environment(), stdout=subprocess.PIPE)
    for _ in range(200):
        found = [row for row in bob.json("approval", "list") if row["names"] == ["dns:c.example.com"]]
        if found:
            break
        time.sleep(0.05)
    bob("approval", "approve", found[0]["id"])
    assert waiting.wait(timeout=60) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    leaf = x509.load_pem_x509_certificates(output.read_bytes())[0]
    assert leaf.public_key() == private.public_key()
    (row,) = alice.json("certificate", "list", "--name", "c.example.com")
    (tmp_path / "password").write_text("a password of mine\n")
    p12 = tmp_path / "c.p12"
    alice(
        *("certificate", "download", str(row["id"]), "--format", "pkcs12", "--with-key", "-o", str(p12)),
        *("--password-file", str(tmp_path / "password")),
    )
    assert p12.stat().st_mode & 0o777 == 0o600
    opened = pkcs12.load_pkcs12(p12.read_bytes(), b"a password of mine")
    assert opened.cert is not None
    assert opened.cert.certificate == leaf
    assert "BEGIN CERTIFICATE" in alice("certificate", "download", str(row["id"]), "--format", "chain")


def test_holding_releasing_and_revoking(operator: Shell, tmp_path: Path) -> None:
    write_csr(tmp_path / "d.csr", "d.example.com")
    made = operator.json("request", "submit", "--profile", "tls-server", "--csr", str(tmp_path / "d.csr"))
    which = str(made["certificate"])
    assert "held" in operator("certificate", "hold", which)
    assert "valid" in operator("certificate", "unhold", which)
    assert "revoked (superseded)" in operator("certificate", "revoke", which, "-r", "superseded")
    assert "told to renew at once" in operator("certificate", "replace", which)
    operator("certificate", "unhold", which, status=1)


def test_rules_are_put_tried_explained_and_planned(operator: Shell, tmp_path: Path) -> None:
    rule = tmp_path / "rule.toml"
    rule.write_text(
        'name = "no-old"\nwhen = "true"\neffect = "refuse"\nmessage = "never"\nprofiles = ["asked"]\n'
    )
    assert "certificates in use" in operator("policy", "test", str(rule))
    assert operator.json("policy", "list") == []
    bad = operator("policy", "put", "no-old", "--when", "nonsense(", "--effect", "warn", "-m", "x", status=1)
    assert "$.when" in bad
    assert "version 1" in operator("policy", "put", "no-old", "-f", str(rule))
    declared = tmp_path / "declared.toml"
    declared.write_text(f"[[rules]]\n{rule.read_text()}")
    assert "version 1" in operator("policy", "put", "no-old", "-f", str(declared))
    declared.write_text(f"{declared.read_text()}\n[[rules]]\n")
    assert "certloom apply" in operator("policy", "put", "no-old", "-f", str(declared), status=1)
    asked = ("--profile", "asked", "--name", "x.example.com", "--key-type", "P-256")
    assert "rule no-old@1" in operator("policy", "explain", *asked)
    assert operator.json("policy", "explain", *asked)["outcome"] == "refuse"
    operator("policy", "delete", "no-old")
    assert operator.json("policy", "explain", *asked)["outcome"] == "ask"
    plan = tmp_path / "plan.toml"
    plan.write_text(PROFILE.replace('type = "ec"', 'type = "ed25519"').replace('["P-256"]', "[]"))
    lines = [json.loads(line) for line in operator("plan", str(plan), "--json").splitlines()]
    assert "summary" in lines[-1]
    assert "certificates in use" in operator("plan", str(plan))


def test_people_teams_roles_and_credentials_of_every_kind(operator: Shell) -> None:
    operator("team", "create", "web", "--description", "the web team")
    operator("role", "create", "reader", "-p", "certificate.read", "-p", "profile.read")
    operator("person", "create", "dora", "--team", "web", "--role", "reader:team=web,name=**.example.com")
    assert "reader:team=web,name=**.example.com" in operator("person", "show", "dora")
    operator("person", "edit", "dora", "--display", "Dora")
    dora = operator.json("person", "show", "dora")
    assert (dora["display"], dora["teams"]) == ("Dora", ["web"])
    operator("team", "delete", "web", status=1)
    operator("role", "create", "worse", "-p", "certificate.eat", status=1)
    operator("person", "create", "eve", "--role", "reader:planet=earth", status=2)
    made = operator.json("credential", "create", "--id", "eab-1", "--name", "**.example.com", "--uses", "2")
    assert (made["kind"], made["secret"] is not None) == ("acme-eab", True)
    operator("credential", "edit", "eab-1", "--label", "ours")
    again = operator.json("credential", "show", "eab-1")
    assert (again["label"], again["names"], again["uses_left"]) == ("ours", ["**.example.com"], 2)
    rotated = operator.json("credential", "rotate", "eab-1", "--overlap", "1h")
    assert rotated["secret"] not in (None, made["secret"])
    operator("credential", "revoke", "eab-1")


def test_the_log_is_listed_exported_and_verified_against_a_checkpoint(
    operator: Shell, tmp_path: Path
) -> None:
    assert "person.created" in operator("audit", "list", "--kind", "person.created")
    export, checkpoint, key = tmp_path / "log.jsonl", tmp_path / "checkpoint.json", tmp_path / "key.pem"
    operator("audit", "export", "-o", str(export))
    assert len(export.read_text().splitlines()) > 10
    operator("audit", "checkpoint", "-o", str(checkpoint))
    operator("audit", "key", "-o", str(key))
    for kept in (export, checkpoint):
        words = ("audit", "verify", "--checkpoint", str(kept), "--public-key", str(key))
        assert operator.json(*words)["intact"] is True
    told = json.loads(checkpoint.read_text())
    checkpoint.write_text(json.dumps({**told, "hash": "0" * 64}))
    operator("audit", "verify", "--checkpoint", str(checkpoint), status=1)
    assert "holds no checkpoint" in operator("audit", "verify", "--checkpoint", str(key), status=1)


def test_webhooks_are_added_changed_and_removed(operator: Shell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    operator("webhook", "add", "chat", "https://chat.example.com/hook", "--secret-file", str(secret))
    assert secret.read_text().startswith("whsec_")
    operator("webhook", "edit", "chat", "--disabled", "--event", "certificate.revoked")
    shown = operator.json("webhook", "show", "chat")
    assert (shown["enabled"], shown["events"]) == (False, ["certificate.revoked"])
    assert "disabled" in operator("webhook", "test", "chat", status=1)
    operator("webhook", "remove", "chat")
    assert "no webhooks" in operator("webhook", "list")
