"""``certloom certificate`` and ``certloom key``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.options import REFUSED, AsJSON, Config
from certloom.cli.reach import fail, perform

app = typer.Typer(help="The inventory.", no_args_is_help=True)
key = typer.Typer(help="Public keys.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(metavar="ID|SERIAL", help="An id, or a serial number in hexadecimal.")]


@app.command("list")
def listing(
    name: Annotated[str | None, typer.Option(help="Only certificates for this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    before: Annotated[int | None, typer.Option(help="The last id of the page before.")] = None,
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Certificates, the newest first."""
    rows = perform(config, "certificate.list", name=name, limit=limit, before=before)
    columns = ("id", "state", "names", "profile", "not_after", "serial")
    show.table(rows, columns, json=json, nothing="no certificates")


@app.command("show")
def show_certificate(certificate: Which, config: Config = None, json: AsJSON = False) -> None:
    """All that is known of a certificate."""
    show.record(perform(config, "certificate.show", certificate=certificate), json=json)


@app.command("revoke")
def revoke(
    certificate: Which,
    reason: Annotated[str, typer.Option(help="As in RFC 5280 section 5.3.1.")] = "unspecified",
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Revoke. keyCompromise also blocks the key for ever."""
    show.record(perform(config, "certificate.revoke", certificate=certificate, reason=reason), json=json)


@app.command("replace")
def replace(
    certificate: Which,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away.")] = False,
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Mark for replacement: clients that ask ARI (RFC 9773) renew it now."""
    result = perform(config, "certificate.replace", certificate=certificate, why=reason, undo=undo)
    show.record(result, json=json)


@key.command("block")
def block(
    which: Annotated[
        str,
        typer.Argument(
            metavar="SHA256|FILE",
            help="SHA-256 of the SPKI in hexadecimal, or a PEM certificate, CSR, key.",
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    config: Config = None,
    json: AsJSON = False,
) -> None:
    """Never certify this key again. Certificates that have it are listed, not revoked."""
    digest = _digest(Path(which)) if Path(which).is_file() else which
    show.record(perform(config, "key.block", spki_sha256=digest, why=reason), json=json)


def _digest(path: Path) -> str:
    """The SHA-256 of the SPKI of what a PEM file holds."""
    from hashlib import sha256

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    data = path.read_bytes()
    readers: tuple[Callable[[], Any], ...] = (
        lambda: x509.load_pem_x509_certificate(data).public_key(),
        lambda: x509.load_pem_x509_csr(data).public_key(),
        lambda: serialization.load_pem_public_key(data),
        lambda: serialization.load_pem_private_key(data, None).public_key(),
    )
    for read in readers:
        with contextlib.suppress(ValueError, TypeError):
            spki: bytes = read().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return sha256(spki).hexdigest()
    return fail(REFUSED, f"{path} holds no PEM certificate, CSR or key")
