"""``certloom certificate`` and ``certloom key``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.files import read, save
from certloom.cli.options import REFUSED, Limit
from certloom.cli.passwords import new_password, password
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group
from certloom.cli.values import moment, moment_before

app = group("The inventory.")
key = group("Public keys.")

Which = Annotated[str, typer.Argument(metavar="ID|SERIAL", help="An id, or a serial number in hexadecimal.")]
_FIRST = ("id", "state", "names", "subject", "profile", "authority", "serial", "not_before", "not_after")
_ID = re.compile(r"[0-9]{1,12}")
_SERIAL = re.compile(r"[0-9a-fA-F:]{1,60}")


class CertificateState(StrEnum):
    """What a certificate is good for."""

    VALID = "valid"
    TO_BE_REPLACED = "to-be-replaced"
    REPLACED = "replaced"
    EXPIRED = "expired"
    HELD = "held"
    REVOKED = "revoked"


class Order(StrEnum):
    """The orders of a listing; ``-`` is the latest first."""

    ISSUED = "issued"
    LATEST_ISSUED = "-issued"
    EXPIRES = "expires"
    LATEST_EXPIRY = "-expires"


class Form(StrEnum):
    """As what a certificate can be downloaded."""

    PEM = "pem"
    DER = "der"
    CHAIN = "chain"
    PKCS7 = "pkcs7"
    PKCS12 = "pkcs12"


@command(app, "list")
def listing(
    run: Run,
    name: Annotated[str | None, typer.Option(help="Only for this name: DNS, IP or type:value.")] = None,
    under: Annotated[str | None, typer.Option(help="Only for this domain and names in it.")] = None,
    state: Annotated[CertificateState | None, typer.Option(help="Only in this state.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only of this profile.")] = None,
    authority: Annotated[str | None, typer.Option(help="Only of this authority.")] = None,
    requester: Annotated[str | None, typer.Option(help="Only asked by this one, such as person:ID.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only on behalf of this one.")] = None,
    team: Annotated[str | None, typer.Option(help="Only of this team.")] = None,
    serial: Annotated[str | None, typer.Option(help="With this serial number (hexadecimal).")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="With this SHA-256 (hexadecimal).")] = None,
    spki: Annotated[str | None, typer.Option(help="With the key of this SHA-256 (hexadecimal).")] = None,
    key_type: Annotated[str | None, typer.Option(help="With such a key: P-256, rsa-2048, ...")] = None,
    expires_before: Annotated[
        str | None, typer.Option(help="Ends before: a day, a moment, or 30d from now.")
    ] = None,
    expires_after: Annotated[str | None, typer.Option(help="Ends then or later.")] = None,
    issued_before: Annotated[
        str | None, typer.Option(help="Issued before this day or moment; 7d is seven days ago.")
    ] = None,
    issued_after: Annotated[str | None, typer.Option(help="Issued then or later.")] = None,
    sort: Annotated[Order | None, typer.Option(help="The order; -issued unless expiry is filtered.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that match: JSON lines, as they come.")] = False,
    limit: Limit = 100,
) -> None:
    """Search certificates. All filters that are given must fit."""
    filters = {
        "name": name,
        "under": under,
        "state": state and state.value,
        "profile": profile,
        "authority": authority,
        "requester": requester,
        "owner": owner,
        "team": team,
        "serial": serial,
        "fingerprint": fingerprint,
        "spki": spki,
        "key_type": key_type,
        "expires_before": moment(expires_before),
        "expires_after": moment(expires_after),
        "issued_before": moment_before(issued_before),
        "issued_after": moment_before(issued_after),
        "sort": sort and sort.value,
    }
    if every:
        save(None, (line + b"\n" for line in run.client.raw_lines("/certificates", filters)))
        return
    rows = run.client.rows("/certificates", limit, **filters)
    run.table(rows, ("id", "state", "names", "profile", "not_after=expires"), "no certificates")


def _path(run: Run, which: str) -> str:
    """Where a certificate is that is named by its id or its serial number; or the end."""
    if _ID.fullmatch(which):
        return "/certificates" + at(int(which))
    if not _SERIAL.fullmatch(which):
        fail(REFUSED, f"{which!r} is neither an id nor a serial number")
    found = list(run.client.rows("/certificates", 2, serial=which))
    if not found:
        fail(REFUSED, f"there is no certificate {which}")
    if len(found) > 1:
        fail(REFUSED, f"several authorities have issued a certificate {which}: name it by its id")
    return "/certificates" + at(found[0]["id"])


@command(app, "show")
def show_certificate(run: Run, certificate: Which) -> None:
    """All that is known of a certificate."""
    run.record(run.client.get(_path(run, certificate)), _FIRST)


@command(app, "download")
def download(
    run: Run,
    certificate: Which,
    form: Annotated[
        Form, typer.Option("--format", help="chain is PEM with the issuers, pkcs7 the same as CMS.")
    ] = Form.PEM,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here, not to stdout.")] = None,
    private_key: Annotated[
        bool, typer.Option("--with-key", help="pkcs12: with the private key, if the server made it.")
    ] = False,
    password_file: Annotated[
        Path | None, typer.Option(help="pkcs12: its first line is the password; else it is asked for.")
    ] = None,
) -> None:
    """Download a certificate."""
    path = _path(run, certificate)
    if form is Form.PKCS12:
        body = {"password": new_password(password_file, "Password of the file"), "key": private_key}
        data = run.client.fetch(path + "/pkcs12", accept="application/x-pkcs12", method="POST", body=body)
        save(output, [data], private=True, binary=True)
        return
    data = run.client.fetch(path + "/download", {"format": form.value}, accept="*/*")
    save(output, [data], binary=form in (Form.DER, Form.PKCS7))


@command(app, "revoke")
def revoke(
    run: Run,
    certificate: Which,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="As in RFC 5280 section 5.3.1.")
    ] = "unspecified",
) -> None:
    """Revoke, for ever. keyCompromise also blocks the key for ever."""
    done = run.client.act(_path(run, certificate) + "/revoke", {"reason": reason})
    run.say(done, f"certificate {done['id']}: {done['state']} ({done['reason']})")


@command(app, "hold")
def hold(run: Run, certificate: Which) -> None:
    """Revoke until it is released (certificateHold)."""
    done = run.client.act(_path(run, certificate) + "/hold")
    run.say(done, f"certificate {done['id']}: {done['state']}")


@command(app, "unhold")
def unhold(run: Run, certificate: Which) -> None:
    """Release from hold: it is good again."""
    done = run.client.act(_path(run, certificate) + "/release")
    run.say(done, f"certificate {done['id']}: {done['state']}")


@command(app, "replace")
def replace(
    run: Run,
    certificate: Which,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, for the record.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away.")] = False,
) -> None:
    """Mark for replacement: clients that ask ARI (RFC 9773) renew it now."""
    path = _path(run, certificate) + "/replace"
    client = run.client
    done = client.answer("DELETE", path).value if undo else client.act(path, {"why": reason})
    run.say(done, f"certificate {done['id']}: {done['state']}{_consequence(done, undo)}")


def _consequence(done: dict[str, Any], undo: bool) -> str:
    """What a mark means for a certificate that is not simply valid."""
    match done["state"]:
        case "revoked" | "held" | "expired" if not undo:
            return "; it is marked, and clients are told to renew at once: they are anyway"
        case "replaced" if not undo:
            return f"; its successor is certificate {done['replaced_by']}, so nothing is left to do"
        case _:
            return ""


@key.command("digest")
def print_digest(file: Annotated[Path, typer.Argument(help="A PEM certificate, CSR or key.")]) -> None:
    """Print the SHA-256 of the public key in a file, which names it elsewhere."""
    print(digest(file))


@command(key, "block")
def block(
    run: Run,
    which: Annotated[
        str,
        typer.Argument(
            metavar="SHA256|FILE", help="SHA-256 of the SPKI in hexadecimal, or a PEM certificate, CSR, key."
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why, for the record.")],
) -> None:
    """Never certify this key again. Certificates that have it are listed, not revoked."""
    spki = digest(Path(which)) if Path(which).is_file() else which.replace(":", "").lower()
    answer = run.client.create("/blocked-keys", {"spki_sha256": spki, "why": reason})
    run.record(answer.value)


@command(key, "compromised")
def report_compromised(
    run: Run,
    certificate: Annotated[
        Path | None, typer.Option(help="A PEM certificate that has the key.", show_default=False)
    ] = None,
    csr: Annotated[
        Path | None, typer.Option(help="A PEM CSR that was made with it.", show_default=False)
    ] = None,
    spki: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256|FILE",
            help="SHA-256 of the SPKI in hexadecimal, or the public or private key in PEM.",
            show_default=False,
        ),
    ] = None,
    proof: Annotated[
        Path | None, typer.Option(help="What `certloom key proof` made with it.", show_default=False)
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="How it came to be known, for the record.")
    ] = "reported as compromised",
    authorities: Annotated[
        bool, typer.Option("--authorities", help="Revoke CA certificates that have the key too.")
    ] = False,
) -> None:
    """Block a key for ever and revoke every certificate that has it."""
    body: dict[str, Any] = {"why": reason, "authorities": authorities}
    for name, path in (("certificate", certificate), ("csr", csr), ("proof", proof)):
        if path is not None:
            body[name] = read(path).decode("latin-1")
    if spki is not None:
        # A private key never leaves this machine: its public half's digest says enough.
        body["spki_sha256"] = digest(Path(spki)) if Path(spki).is_file() else spki.replace(":", "").lower()
    done = run.client.create("/compromised-keys", body).value
    more = ", and more are being revoked" if done["being_revoked"] else ""
    count = f"{done['revoked']} certificate{'' if done['revoked'] == 1 else 's'}"
    run.say(done, f"{done['spki_sha256']} is blocked; {count} revoked{more}")
    if done["ca_certificates"] and not run.json:
        ids = ", ".join(map(str, done["ca_certificates"]))
        show.line(f"CA certificates with the key were left alone: {ids}; --authorities revokes them too")


@key.command("proof")
def make_proof(
    file: Annotated[Path, typer.Argument(help="The private key, PEM.")],
    encrypted: Annotated[bool, typer.Option("--encrypted", help="Ask for its password.")] = False,
) -> None:
    """Print a proof that a private key is compromised. Whoever has it can block the key here, so send it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from certloom.pki import signatures
    from certloom.pki.csr import tbs_csr
    from certloom.pki.keys import spki_of
    from certloom.pki.names import COMMON_NAME, Name
    from certloom.pki.pem import to_pem

    secret = password("Password of the key", None).encode() if encrypted else None
    subject = Name(((COMMON_NAME, "Proof of key compromise"),))
    try:
        private: Any = load_pem_private_key(read(file), secret)
        made = signatures.assemble(private, tbs_csr(subject, spki_of(private), ca=False))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        fail(REFUSED, f"{file}: {error}")
    print(to_pem(made, "CERTIFICATE REQUEST").decode(), end="")


@command(key, "blocked")
def list_blocked(run: Run, limit: Limit = 1000) -> None:
    """Every key that is blocked."""
    rows = run.client.rows("/blocked-keys", limit)
    run.table(rows, ("spki_sha256", "why", "blocked"), "no key is blocked")


@command(key, "show")
def show_key(
    run: Run,
    which: Annotated[str, typer.Argument(metavar="SHA256|FILE", help="As for `key block`.")],
) -> None:
    """Look whether a key is blocked, and which certificates have it."""
    spki = digest(Path(which)) if Path(which).is_file() else which.replace(":", "").lower()
    run.record(run.client.get("/blocked-keys" + at(spki)))


def digest(path: Path) -> str:
    """The SHA-256 of the SPKI of what a PEM file holds; or the end."""
    from hashlib import sha256

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    data = read(path)
    readers: tuple[Callable[[], Any], ...] = (
        lambda: x509.load_pem_x509_certificate(data).public_key(),
        lambda: x509.load_pem_x509_csr(data).public_key(),
        lambda: serialization.load_pem_public_key(data),
        lambda: serialization.load_pem_private_key(data, None).public_key(),
    )
    for reader in readers:
        with contextlib.suppress(ValueError, TypeError):
            spki: bytes = reader().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return sha256(spki).hexdigest()
    return fail(REFUSED, f"{path} holds no PEM certificate, CSR or key")
