"""``certloom request``."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import BASE, Answer, at
from certloom.cli.files import read, save
from certloom.cli.options import REFUSED, USAGE, WAITING, Limit
from certloom.cli.progress import progress
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group
from certloom.cli.terminal import tell
from certloom.cli.values import moment, seconds

app = group("Ask for certificates, and follow what was asked for.")

_OPEN = ("awaiting_approval", "approved", "issuing")
_LONGEST_PAUSE = 30
_FIRST = ("id", "state", "names", "profile", "certificate")


class RequestState(StrEnum):
    """The states in which a request can be found."""

    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    ISSUING = "issuing"
    ISSUED = "issued"
    DENIED = "denied"
    FAILED = "failed"
    CANCELLED = "cancelled"


@command(app, "submit")
def submit(
    run: Run,
    profile: Annotated[str, typer.Option(help="What the certificate shall be like.")],
    csr: Annotated[
        Path | None, typer.Option(help="A certificate request, PEM or DER; - reads standard input.")
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option(metavar="ALGORITHM", help="Instead: the server makes the key, such as P-256."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A name: a DNS name, or type:value. May be repeated; in place of the CSR's."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="With --new-key: such as 'CN=x, O=Example'.")] = None,
    lifetime: Annotated[str | None, typer.Option(help="Such as 30d.")] = None,
    not_after: Annotated[str | None, typer.Option(help="The end instead: a day, a moment or 30d.")] = None,
    team: Annotated[str | None, typer.Option(help="The team it is for, one of yours.")] = None,
    comment: Annotated[str, typer.Option("--comment", "-m", help="For those who have to agree.")] = "",
    replaces: Annotated[int | None, typer.Option(help="Id of the certificate it succeeds.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the certificate and its chain here (PEM).")
    ] = None,
    key_output: Annotated[
        Path | None, typer.Option(help="With --new-key: write the private key here (PEM, mode 0600).")
    ] = None,
    key_password_file: Annotated[
        Path | None, typer.Option(help="Keep that key encrypted, under the password in this file.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is issued or denied.")] = False,
    timeout: Annotated[str, typer.Option(help="How long to wait.")] = "1h",
) -> None:
    """Ask for a certificate, with a CSR or for a key that the server makes.

    Ends with 6 when people have to agree first: go on with `request wait`.
    """
    if (csr is None) == (new_key is None):
        raise typer.BadParameter("give --csr FILE or --new-key ALGORITHM")
    if key_output is not None and new_key is None:
        raise typer.BadParameter("--key-output goes with --new-key")
    body: dict[str, Any] = {"profile": profile, "comment": comment}
    if csr is not None:
        body |= _csr(csr)
    else:
        body["key"] = {"algorithm": new_key}
    optional = {
        "names": name,
        "subject": subject,
        "lifetime": seconds(lifetime),
        "not_after": moment(not_after),
        "team": team,
        "replaces": replaces,
    }
    body |= {field: value for field, value in optional.items() if value is not None}
    limit = seconds(timeout) or 0
    answer = run.client.create("/requests", body)
    if answer.value is None:
        # It waits, and the answer only says where to look.
        answer = run.client.answer("GET", answer.headers["location"].removeprefix(BASE))
    if wait:
        answer = _until_over(run, answer, limit)
    _finish(run, answer.value, output, key_output, key_password_file)


def _csr(file: Path) -> dict[str, str]:
    from base64 import b64encode

    data = read(file)
    if b"-----BEGIN" in data:
        return {"csr": data.decode("ascii", "replace")}
    return {"csr_der": b64encode(data).decode()}


@command(app, "wait")
def wait(
    run: Run,
    id: str,
    timeout: Annotated[str, typer.Option(help="How long to wait.")] = "1h",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the certificate and its chain here (PEM).")
    ] = None,
    key_output: Annotated[
        Path | None, typer.Option(help="Write the private key that the server made here (PEM, mode 0600).")
    ] = None,
    key_password_file: Annotated[
        Path | None, typer.Option(help="Keep that key encrypted, under the password in this file.")
    ] = None,
) -> None:
    """Wait until a request is issued or denied, and fetch what was made."""
    limit = seconds(timeout) or 0
    answer = _until_over(run, run.client.answer("GET", "/requests" + at(id)), limit)
    _finish(run, answer.value, output, key_output, key_password_file)


def _until_over(run: Run, answer: Answer, limit: int) -> Answer:
    """Look again until it is over, or the time is."""
    began = time.monotonic()
    with progress("waiting") as told:
        while answer.value["state"] in _OPEN:
            left = limit - (time.monotonic() - began)
            if left <= 0:
                return answer
            told(int(time.monotonic() - began), limit, answer.value["state"].replace("_", " "))
            # What only the authority has yet to do is done in a moment.
            pause = answer.retry_after if answer.value["state"] == "awaiting_approval" else 1
            time.sleep(min(max(1, pause), _LONGEST_PAUSE, left))
            answer = run.client.answer("GET", "/requests" + at(answer.value["id"]))
    return answer


def _finish(
    run: Run, request: dict[str, Any], output: Path | None, key_output: Path | None, password: Path | None
) -> None:
    """Say how it stands, write what there is, and end with the status that says so."""
    state = request["state"]
    if state == "issued":
        if key_output is not None:
            save(key_output, [_private_key(run, request["id"], password)], private=True)
        if output is not None:
            path = "/certificates" + at(request["certificate"]) + "/download"
            save(
                output,
                [run.client.fetch(path, {"format": "chain"}, accept="application/pem-certificate-chain")],
            )
    if run.json:
        show.as_json(request)
    elif str(output) != "-":
        shown = {name: value for name, value in request.items() if value not in (None, [], "")}
        if output is not None:
            shown.pop("certificate_pem", None)
        show.record(shown, _FIRST)
    for warning in request.get("warnings") or ():
        tell(f"warning: {warning['message']}")
    if state in _OPEN:
        if not run.json:
            tell(f"It waits. Go on with: certloom request wait {request['id']}")
        raise typer.Exit(WAITING)
    if state != "issued":
        why = "; ".join(reason["message"] for reason in request["reasons"])
        fail(REFUSED, f"{state}: {why}" if why else state)


def _private_key(run: Run, id: str, password_file: Path | None) -> bytes:
    """The key that the server made; it travels encrypted, and stays so if a password was given."""
    import secrets

    from certloom.cli.reach import read_secret

    password = secrets.token_urlsafe(32)
    if password_file is not None:
        try:
            password = read_secret(password_file)
        except OSError as error:
            fail(USAGE, f"{password_file}: {error.strerror}")
    body = {"password": password, "format": "pkcs8"}
    path = "/requests" + at(id) + "/private-key"
    pem = run.client.fetch(path, accept="application/x-pem-file", method="POST", body=body)
    if password_file is not None:
        return pem
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(pem, password.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@command(app, "list")
def listing(
    run: Run,
    state: Annotated[
        list[RequestState] | None, typer.Option(help="Only this state; may be repeated. Default: open ones.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Only this profile.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    requester: Annotated[str | None, typer.Option(help="Only asked by this one, such as person:ID.")] = None,
    approval: Annotated[str | None, typer.Option(help="Only those under this approval.")] = None,
    limit: Limit = 100,
) -> None:
    """Requests, the newest first."""
    filters = {"profile": profile, "team": team, "requester": requester, "approval": approval}
    states = [each.value for each in state or ()] or list(_OPEN)
    rows: list[dict[str, Any]] = []
    for each in states:
        rows += run.client.rows("/requests", limit, state=each, **filters)
    # Ids begin with the time they were made.
    rows = sorted(rows, key=lambda row: str(row["id"]), reverse=True)[:limit]
    columns = ("id", "state", "names", "profile?")
    run.table(rows, columns, "no such requests" if state else "no open requests")


@command(app, "show")
def show_request(run: Run, id: str) -> None:
    """All that is known of a request."""
    run.record(run.client.get("/requests" + at(id)), _FIRST)


@command(app, "cancel")
def cancel(run: Run, id: str) -> None:
    """Withdraw a request that is not issued yet."""
    done = run.client.act("/requests" + at(id) + "/cancel")
    run.say(done, f"{done['id']}: {done['state']}")


Message = Annotated[str, typer.Option("--message", "-m", "--reason", "-r", help="For the record.")]


@command(app, "approve")
def approve(run: Run, id: str, message: Message = "") -> None:
    """Agree to what a request waits for (`approval approve`, by the request's id)."""
    _decide(run, id, "approve", message)


@command(app, "deny")
def deny(run: Run, id: str, message: Message = "") -> None:
    """Say no to what a request waits for, for good; the requester is told why."""
    _decide(run, id, "deny", message)


def _decide(run: Run, id: str, decision: str, message: str) -> None:
    from certloom.cli.approvals import decide

    approval = run.client.get("/requests" + at(id)).get("approval")
    if approval is None:
        fail(REFUSED, f"request {id} waits for nobody")
    decide(run, approval, decision, message, {})
