"""``certloom authority``: CAs that issue, where they come from, and rolling them over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.files import save
from certloom.cli.options import REFUSED, USAGE, Limit
from certloom.cli.passwords import password
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group
from certloom.cli.values import seconds

app = group("CAs that issue.")

_LONG = 300.0
_LISTS = ("policies",)
_FIRST = ("name", "state", "subject", "issuer", "generation", "key", "key_in", "not_after")

Subject = Annotated[str, typer.Option(help="Its name: CN=Devices CA,O=Example.")]
Algorithm = Annotated[str, typer.Option(help="Kind of its key: P-256, P-384, rsa-3072, ml-dsa-65 ...")]
KeyIn = Annotated[
    str, typer.Option(help="PKCS#11 URI of the token for its key; otherwise the signer keeps it.")
]
Attach = Annotated[bool, typer.Option("--attach", help="The key is in the token already: use that.")]
Days = Annotated[int, typer.Option(min=1, help="How long its certificate is valid.")]
Shards = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Over how many CRLs its certificates are spread; 1 for a root, 16 for others.",
        show_default=False,
    ),
]
PathLength = Annotated[
    str | None, typer.Option(help="How many CAs may be in a row below it, or unlimited.", show_default=False)
]
Permitted = Annotated[
    list[str] | None,
    typer.Option("--permit", help="Name constraint: dns:example.com, ip:10.0.0.0/8 ...", show_default=False),
]
Excluded = Annotated[
    list[str] | None, typer.Option("--exclude", help="Names that are not to be below it.", show_default=False)
]
Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", help="Certificate policy (OID) in its certificate.", show_default=False),
]
CPS = Annotated[str | None, typer.Option(help="URL of its certification practice statement.")]
Usages = Annotated[
    list[str] | None,
    typer.Option(
        "--usage", help="What its certificates may at most be for: serverAuth ...", show_default=False
    ),
]
ChainFile = Annotated[
    Path, typer.Option("--certificate", help="PEM; those above it, up to the root, follow in the file.")
]
Force = Annotated[bool, typer.Option("--force", help="Although something stands against it.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write to.")]
Generation = Annotated[int | None, typer.Option(help="Which generation.", show_default=False)]


@command(app, "list")
def list_authorities(run: Run, limit: Limit = 1000) -> None:
    """Every authority."""
    rows = run.client.rows("/authorities", limit)
    run.table(rows, ("name", "kind?", "issuer?", "subject", "not_after", "state"), "no authorities")


@command(app, "show")
def show_authority(run: Run, name: str) -> None:
    """An authority, with its certificate."""
    run.record(run.client.get("/authorities" + at(name)))


@command(app, "create")
def create(
    run: Run,
    name: str,
    subject: Subject,
    issuer: Annotated[str | None, typer.Option(help="The authority above it; none makes a root.")] = None,
    algorithm: Algorithm = "P-256",
    key_in: KeyIn = "",
    attach: Attach = False,
    days: Days = 3650,
    path_length: PathLength = None,
    permitted: Permitted = None,
    excluded: Excluded = None,
    policies: Policies = None,
    cps: CPS = None,
    usages: Usages = None,
    crl_shards: Shards = None,
) -> None:
    """Make a CA: a root, or one below an authority that is here."""
    body = {
        "name": name,
        "subject": subject,
        "issuer": issuer,
        "key": algorithm,
        "key_in": key_in,
        "attach": attach,
        "days": days,
        "crl_shards": crl_shards,
        "cps": cps or "",
        **_terms(path_length, permitted, excluded, policies, usages),
    }
    made = run.client.create("/authorities", body, seconds=_LONG).value
    run.say(made, f"{name} is made: {made['subject']}, until {made['not_after'][:10]}")


@command(app, "request")
def request(
    run: Run,
    name: str,
    subject: Subject,
    algorithm: Algorithm = "P-256",
    key_in: KeyIn = "",
    attach: Attach = False,
    crl_shards: Shards = None,
    output: Output = None,
) -> None:
    """Make a CA's key, and a CSR for a CA elsewhere to sign; then `certloom authority install`."""
    body = {
        "name": name,
        "subject": subject,
        "key": algorithm,
        "key_in": key_in,
        "attach": attach,
        "crl_shards": crl_shards,
        "by_request": True,
    }
    made = run.client.create("/authorities", body, seconds=_LONG).value
    if run.json:
        show.as_json(made)
    else:
        save(output, [made["csr"].encode()])


@command(app, "csr")
def csr(run: Run, name: str, output: Output = None) -> None:
    """The CSR of what waits for a certificate."""
    found = run.client.get("/authorities" + at(name))["csr"]
    if not found:
        fail(REFUSED, f"nothing of {name} waits for a certificate")
    save(output, [found.encode()])


@command(app, "install")
def install(run: Run, name: str, certificate: ChainFile) -> None:
    """Install the certificate that a CSR got."""
    found = run.client.act("/authorities" + at(name, "certificate"), {"certificate": _text(certificate)})
    run.say(found, f"{name} is {found['state']}, in generation {found['generation']}")


@command(app, "import")
def import_(
    run: Run,
    name: str,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM; those above it may follow.", show_default=False)
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(help="Its private key, PEM.", show_default=False)
    ] = None,
    pkcs12: Annotated[
        Path | None, typer.Option(help="Certificate and key in one file.", show_default=False)
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="Its first line is the password of key or PKCS#12.", show_default=False),
    ] = None,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="Ask for the key's password.")] = False,
    key_in: Annotated[str, typer.Option(help="PKCS#11 URI of the key, where it is in a token.")] = "",
    chain: Annotated[
        Path | None, typer.Option(help="Certificates above it, up to the root.", show_default=False)
    ] = None,
    crl: Annotated[
        Path | None, typer.Option(help="Its last CRL: numbers go on above it.", show_default=False)
    ] = None,
    crl_number_above: Annotated[
        int | None, typer.Option(min=0, help="... or the number of that CRL.", show_default=False)
    ] = None,
    crl_shards: Shards = None,
) -> None:
    """Take in a CA with its key, from files or with a key that is in a token."""
    number = crl_number_above if crl is None else _crl_number(crl)
    body: dict[str, Any] = {"name": name, "key_in": key_in, "crl_shards": crl_shards}
    if number is not None:
        body["options"] = {"crl_number_above": number}
    if certificate is not None:
        body["certificate"] = _text(certificate)
    if private_key is not None:
        body["key"] = _text(private_key)
    if chain is not None:
        body["chain"] = _text(chain)
    if pkcs12 is not None:
        from base64 import b64encode

        body["pkcs12"] = b64encode(_octets(pkcs12)).decode()
    if password_file is not None or encrypted or pkcs12 is not None:
        body["password"] = password("Password of the key", password_file)
    made = run.client.create("/authority-imports", body, seconds=_LONG).value
    run.say(made, f"{name} is here: {made['subject']}, until {made['not_after'][:10]}")


@command(app, "set")
def set_options(
    run: Run,
    name: str,
    options: Annotated[
        list[str],
        typer.Argument(
            help="crl_seconds=7d, ocsp=false, policies=1.2.3,1.2.4 ...", metavar="OPTION=VALUE..."
        ),
    ],
) -> None:
    """Change what of an authority can change; `certloom authority show` has all options."""
    change = dict(_option(text) for text in options)
    found = run.client.edit("/authorities" + at(name), lambda _: change)
    run.say(found, "\n".join(f"{key} = {found['options'].get(key)}" for key in change))


@command(app, "generations")
def generations(run: Run, name: str) -> None:
    """An authority's keys: next, current, past and retired."""
    rows = run.client.get("/authorities" + at(name, "generations"))["items"]
    run.table(
        rows,
        ("generation", "state", "subject", "key", "key_in?", "not_after", "activated?"),
        "no generations",
    )


@command(app, "prepare")
def prepare(
    run: Run,
    name: str,
    algorithm: Annotated[str | None, typer.Option(help="Another kind of key.", show_default=False)] = None,
    key_in: Annotated[
        str | None, typer.Option(help="PKCS#11 URI of its token, or software.", show_default=False)
    ] = None,
    attach: Attach = False,
    days: Annotated[int | None, typer.Option(min=1, help="How long it is valid.", show_default=False)] = None,
    subject: Annotated[str | None, typer.Option(help="Another name.", show_default=False)] = None,
    path_length: PathLength = None,
    permitted: Permitted = None,
    excluded: Excluded = None,
    policies: Policies = None,
    usages: Usages = None,
    by_request: Annotated[bool, typer.Option("--by-request", help="Make a CSR.")] = False,
) -> None:
    """Make an authority's next generation; nothing is issued from it yet."""
    given = {"key": algorithm, "key_in": key_in, "days": days, "subject": subject}
    body = {
        **{option: value for option, value in given.items() if value is not None},
        **_terms(path_length, permitted, excluded, policies, usages),
        "attach": attach,
        "by_request": by_request,
    }
    made = run.client.create("/authorities" + at(name, "generations"), body, seconds=_LONG).value
    waits = f"; its CSR: certloom authority csr {name}" if made["csr"] else ""
    run.say(made, f"{name}: generation {made['generation']} is prepared{waits}")


@command(app, "activate")
def activate(run: Run, name: str, generation: Generation = None, force: Force = False) -> None:
    """Issue from the next generation from now on."""
    number = _next(run, name) if generation is None else generation
    path = "/authorities" + at(name, "generations", number, "activation")
    found = run.client.act(path, {"force": force})
    run.say(found, f"{name} issues from generation {found['generation']}")


@command(app, "retire")
def retire(run: Run, name: str, generation: Generation = None, force: Force = False) -> None:
    """Have an authority issue no more; or, with --generation, sign nothing at all with an old key."""
    if generation is None:
        found = run.client.edit("/authorities" + at(name), lambda _: {"state": "retired"})
        run.say(found, f"{name} issues no more; its CRLs and OCSP answers go on")
        return
    path = "/authorities" + at(name, "generations", generation, "retirement")
    found = run.client.act(path, {"force": force}, seconds=_LONG)
    run.say(found, f"{name}: generation {generation} is retired")


@command(app, "rollover")
def rollover(
    run: Run,
    name: str,
    go: Annotated[bool, typer.Option("--go", help="Do the next step, if it may be done.")] = False,
) -> None:
    """Where an authority's rollover stands, what comes next, and what still stands on each generation."""
    found = run.client.get("/authorities" + at(name, "rollover"))
    if go:
        found = _step(run, name, found)
    if run.json:
        show.as_json(found)
        return
    for each in found["generations"]:
        until = each["not_after"][:10] if each["not_after"] else "no certificate yet"
        show.line(f"generation {each['generation']} ({each['state']}): {each['subject']}, {until}")
        for part in each["certificates"]:
            last = part["last_expires"][:10]
            show.line(f"    {part['certificates']} certificates of {part['profile']}, the last until {last}")
        for ca in each["authorities"]:
            who = f"{ca['authority']} generation {ca['generation']}" if ca["authority"] else "elsewhere"
            show.line(f"    CA {ca['subject']} ({who}), until {ca['last_expires'][:10]}")
        show.line(f"    {each['crls']} CRLs, {each['ocsp_responders']} OCSP responders")
    show.line(_next_step(found))


def _step(run: Run, name: str, found: dict[str, Any]) -> dict[str, Any]:
    path, number = "/authorities" + at(name), found["generation"]
    if not found["ready"]:
        fail(REFUSED, _next_step(found))
    if found["step"] == "prepare":
        run.client.create(path + "/generations", {}, seconds=_LONG)
    elif found["step"] == "activate":
        run.client.act(path + at("generations", number, "activation"), {})
    elif found["step"] == "retire":
        run.client.act(path + at("generations", number, "retirement"), {}, seconds=_LONG)
    after: dict[str, Any] = run.client.get(path + "/rollover")
    return after


def _next_step(found: dict[str, Any]) -> str:
    of = "" if found["generation"] is None else f" generation {found['generation']}"
    if found["ready"]:
        return f"next step: {found['step']}{of} (--go does it)"
    when = f", not before {found['at'][:16].replace('T', ' ')} UTC" if found["at"] else ""
    waits = "".join(f"\n    {each}" for each in found["waits_for"])
    return f"next step: {found['step']}{of}{when}; it waits for:{waits}"


@command(app, "cross-sign")
def cross_sign(
    run: Run,
    name: str,
    certificate: Annotated[
        Path | None, typer.Option(help="The other CA's certificate, PEM ...", show_default=False)
    ] = None,
    csr: Annotated[Path | None, typer.Option(help="... or its CSR, PEM.", show_default=False)] = None,
    days: Days = 1825,
    path_length: Annotated[int, typer.Option(min=0, help="How many CAs may be in a row below it.")] = 0,
    permitted: Permitted = None,
    excluded: Excluded = None,
    policies: Policies = None,
    usages: Usages = None,
    output: Output = None,
) -> None:
    """Certify another CA under this authority."""
    body: dict[str, Any] = {
        "days": days,
        **_terms(None, permitted, excluded, policies, usages),
        "path_length": path_length,
    }
    if certificate is not None:
        body["certificate"] = _text(certificate)
    if csr is not None:
        body["csr"] = _text(csr)
    made = run.client.create("/authorities" + at(name, "cross-signatures"), body, seconds=_LONG).value
    if run.json:
        show.as_json(made)
    else:
        save(output, [made["certificate"].encode()])


@command(app, "cross-install")
def cross_install(run: Run, name: str, certificate: ChainFile) -> None:
    """Offer another CA's certificate for this authority as an alternate chain."""
    path = "/authorities" + at(name, "cross-certificates")
    found = run.client.act(path, {"certificate": _text(certificate)})
    run.say(found, f"{name} offers one more chain")


@command(app, "cross-drop")
def cross_drop(
    run: Run, name: str, sha256: Annotated[str, typer.Argument(help="Its fingerprint, hexadecimal.")]
) -> None:
    """Offer a cross-certificate no longer. It stays valid until its issuer revokes it."""
    path = "/authorities" + at(name, "cross-certificates", sha256.replace(":", "").lower())
    run.client.delete(path)
    run.say({"deleted": sha256}, f"{name} offers that chain no longer")


# -- values ----------------------------------------------------------------------------------------------


def _terms(
    path_length: str | None,
    permitted: list[str] | None,
    excluded: list[str] | None,
    policies: list[str] | None,
    usages: list[str] | None,
) -> dict[str, Any]:
    """What was said of them."""
    given: dict[str, Any] = {
        "path_length": path_length if path_length in (None, "unlimited") else _number(path_length),
        "permitted": permitted,
        "excluded": excluded,
        "policies": policies,
        "extended_key_usage": usages,
    }
    return {name: value for name, value in given.items() if value} | (
        {"path_length": 0} if given["path_length"] == 0 else {}
    )


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        fail(USAGE, f"{text!r}: expected a number, or unlimited")
    return int(text)


def _next(run: Run, name: str) -> int:
    rows = run.client.get("/authorities" + at(name, "generations"))["items"]
    found = [int(each["generation"]) for each in rows if each["state"] == "next"]
    if not found:
        fail(REFUSED, f"{name} has no next generation; make one with `certloom authority prepare {name}`")
    return found[0]


def _option(text: str) -> tuple[str, Any]:
    """``name=value`` as the API takes it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: expected OPTION=VALUE")
    if name in _LISTS:
        return name, [each for each in value.split(",") if each]
    if value in ("true", "false"):
        return name, value == "true"
    if value.isascii() and value.isdigit():
        return name, int(value)
    if name.endswith("_seconds"):
        return name, seconds(value)
    return name, value


def _crl_number(file: Path) -> int:
    from cryptography import x509

    data = _octets(file)
    try:
        load = x509.load_pem_x509_crl if b"-----BEGIN" in data else x509.load_der_x509_crl
        return load(data).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        fail(REFUSED, f"{file}: not a CRL with a number: {error}")


def _octets(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        fail(REFUSED, f"{file}: {error.strerror}")


def _text(file: Path) -> str:
    """PEM; DER becomes a certificate in PEM."""
    data = _octets(file)
    if data[:1] == b"\x30" and b"-----BEGIN" not in data:
        import ssl

        return ssl.DER_cert_to_PEM_cert(data)
    return data.decode("ascii", "replace")
