"""``certloom ceremony``: an offline root's key, in shares, on a machine without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from certloom.cli import show
from certloom.cli.options import NOT_INTACT, REFUSED, USAGE
from certloom.cli.reach import fail
from certloom.cli.run import group

if TYPE_CHECKING:
    from certloom.ceremony.script import Script
    from certloom.ceremony.steps import Ceremony

app = group("Key ceremonies for an offline root.")

_T = TypeVar("_T")
ScriptFile = Annotated[
    Path | None, typer.Option("--script", help="TOML file that says what is to be done.", show_default=False)
]
Directory = Annotated[
    Path,
    typer.Option("--directory", "-d", help="Where the root's file, its certificate and the transcript are."),
]
Shares = Annotated[
    list[Path] | None,
    typer.Option("--share", help="A share file; as many as are needed.", show_default=False),
]
PathLengthOption = Annotated[
    int | None, typer.Option(min=0, help="How many CAs may be below it; none given: any number.")
]


@app.command("root")
def make_root(script: ScriptFile = None, directory: Directory = Path()) -> None:
    """Make a root: its key in shares, its certificate, and a transcript."""

    def asked() -> Script:
        from certloom.ceremony.script import NewRoot, Script
        from certloom.cli import ceremony_table as table

        present = table.ask_present()
        root = NewRoot(
            subject=table.ask("Subject of the root (CN=...,O=...,C=...)", table.some),
            algorithm=table.ask("Kind of key (P-256, P-384, rsa-4096, ed25519, ml-dsa-65 ...)", str, "P-384"),
            days=table.ask("Days that it is valid", table.number, "7300"),
            path_length=table.ask(
                "How many CAs may be below one another (empty: any number)",
                lambda text: int(text) if text else None,
            ),
            permitted=table.ask("Permitted names (dns:example.com, ...; empty: all)", table.words),
            excluded=table.ask("Excluded names (empty: none)", table.words),
            policies=table.ask("Certificate policies (OIDs; empty: none)", table.words),
            cps=table.ask("URL of the practice statement (empty: none)", str),
        )
        needed, holders = table.ask_holders()
        return Script(present=present, directory=str(directory), root=root, threshold=needed, holders=holders)

    where = _hold(script, asked, lambda ceremony: ceremony.root())
    show.line(f"Made: {where}")


@app.command("sign")
def sign(
    script: ScriptFile = None,
    directory: Directory = Path(),
    share: Shares = None,
    csr: Annotated[str, typer.Option(help="The CSR of a CA that is to be certified.")] = "",
    certificate: Annotated[
        str, typer.Option(help="Instead: the certificate of a CA to cross-certify, or of another root.")
    ] = "",
    out: Annotated[str, typer.Option("--out", "-o", help="Where the certificate goes.")] = "",
    days: Annotated[int, typer.Option(min=1, help="How long it is valid.")] = 3650,
    path_length: PathLengthOption = None,
    crl_url: Annotated[str, typer.Option(help="Where the root's CRL will be.")] = "",
    issuer_url: Annotated[str, typer.Option(help="Where the root's certificate will be.")] = "",
) -> None:
    """Certify an issuing CA, another root (link certificates), or a foreign CA."""

    def asked() -> Script:
        from certloom.ceremony.script import Certify, Script
        from certloom.cli import ceremony_table as table

        if bool(csr) == bool(certificate) or not out:
            fail(USAGE, "name a script, or --out with one of --csr and --certificate")
        each = Certify(
            csr=csr,
            certificate=certificate,
            out=out,
            days=days,
            path_length=path_length,
            crl_url=crl_url,
            issuer_url=issuer_url,
        )
        return Script(
            present=table.ask_present(),
            directory=str(directory),
            shares=tuple(map(str, share or ())),
            certify=(each,),
        )

    for where in _hold(script, asked, lambda ceremony: ceremony.sign()):
        show.line(f"Signed: {where}")


@app.command("crl")
def sign_crl(
    script: ScriptFile = None,
    directory: Directory = Path(),
    share: Shares = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Where it goes: .pem as PEM, else DER.")] = "",
    days: Annotated[int, typer.Option(min=1, help="Until the next one has to be there.")] = 180,
    revoke: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIAL:REASON", help="Revoke a certificate of the root's.", show_default=False),
    ] = None,
) -> None:
    """Sign the root's CRL, with everything that it ever revoked."""

    def asked() -> Script:
        from certloom.ceremony.script import REASONS, MakeCRL, Revoke, Script
        from certloom.cli import ceremony_table as table

        if not out:
            fail(USAGE, "name a script, or --out")
        revoked = []
        for each in revoke or ():
            serial, _, reason = each.rpartition(":")
            if reason not in REASONS or not serial:
                fail(USAGE, f"{each!r} is not SERIAL:REASON; reasons: {', '.join(REASONS)}")
            revoked.append(Revoke(serial=serial, reason=reason))
        return Script(
            present=table.ask_present(),
            directory=str(directory),
            shares=tuple(map(str, share or ())),
            revoke=tuple(revoked),
            crl=MakeCRL(out=out, days=days),
        )

    where = _hold(script, asked, lambda ceremony: ceremony.crl())
    show.line(f"Signed: {where}")


@app.command("reshare")
def reshare(script: ScriptFile = None, directory: Directory = Path(), share: Shares = None) -> None:
    """Divide the key among new holders; it stays the same, and the old shares open nothing new."""

    def asked() -> Script:
        from certloom.ceremony.script import Script
        from certloom.cli import ceremony_table as table

        present = table.ask_present()
        needed, holders = table.ask_holders()
        return Script(
            present=present,
            directory=str(directory),
            shares=tuple(map(str, share or ())),
            threshold=needed,
            holders=holders,
        )

    for where in _hold(script, asked, lambda ceremony: ceremony.reshare()):
        show.line(f"Made: {where}")
    show.line(
        "Destroy the old shares, and every copy of the old root file: together they still open the key."
    )


@app.command("check")
def check(
    directory: Directory = Path(),
    share: Shares = None,
    open_shares: Annotated[
        bool, typer.Option("--open", help="Have each holder try the passphrase; nothing is put together.")
    ] = False,
) -> None:
    """See that the root's file, shares and the transcript belong together and were not altered."""
    from certloom.ceremony.checking import check as look
    from certloom.ceremony.errors import CeremonyError
    from certloom.cli.ceremony_table import Table

    try:
        good, bad = look(directory, share or [], Table(rehearsal=False) if open_shares else None)
    except CeremonyError as error:
        fail(NOT_INTACT, str(error))
    for each in good:
        show.line(f"good: {each}")
    for each in bad:
        show.line(f"BAD:  {each}")
    if bad:
        fail(NOT_INTACT, f"{len(bad)} things are not as they should be")


def _hold(script: Path | None, asked: Callable[[], Script], work: Callable[[Ceremony], _T]) -> _T:
    """Hold the ceremony, or end with what stopped it."""
    import os

    from certloom.ceremony.errors import CeremonyError
    from certloom.ceremony.script import load
    from certloom.ceremony.steps import Ceremony
    from certloom.cli.ceremony_table import Table, is_rehearsal
    from certloom.clock import SystemClock

    os.umask(0o077)
    try:
        plan = asked() if script is None else load(script)
        folder = Path() if script is None else script.parent
        table = Table(rehearsal=is_rehearsal(plan))
        return work(Ceremony(plan, folder.absolute(), SystemClock(), table))
    except CeremonyError as error:
        fail(REFUSED, str(error))
    except KeyboardInterrupt:
        fail(REFUSED, "broken off")
