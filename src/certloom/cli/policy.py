"""``certloom policy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.client import at
from certloom.cli.configuration import read_document
from certloom.cli.files import read
from certloom.cli.options import REFUSED, Limit
from certloom.cli.reach import fail
from certloom.cli.run import Run, command, group
from certloom.cli.values import seconds

app = group("Rules above profiles, and why a request was decided as it was.")


@command(app, "list")
def listing(run: Run, limit: Limit = 1000) -> None:
    """The newest version of each rule."""
    rows = run.client.rows("/rules", limit)
    flat = rows if run.json else [{**row, **(row["rule"] or {})} for row in rows]
    run.table(flat, ("name", "version", "effect", "enabled", "profiles", "message"), "no rules")


@command(app, "show")
def show_rule(
    run: Run,
    name: str,
    version: Annotated[int | None, typer.Option(help="An older version.", show_default=False)] = None,
) -> None:
    """All of a rule."""
    path = "/rules" + at(name)
    found = run.client.get(path if version is None else path + "/versions" + at(version))
    _show(run, found)


@command(app, "versions")
def versions(run: Run, name: str, limit: Limit = 100) -> None:
    """A rule's versions, the newest first; also of one that was deleted."""
    rows = run.client.rows("/rules" + at(name) + "/versions", limit)
    flat = rows if run.json else [{**row, **(row["rule"] or {"effect": "deleted"})} for row in rows]
    run.table(flat, ("version", "effect", "enabled", "author", "created"), "no versions")


@command(app, "put")
def put(
    run: Run,
    name: str,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="The rule as TOML, or JSON if it ends in .json; - is stdin."),
    ] = None,
    when: Annotated[str | None, typer.Option(help="The condition, in CEL.")] = None,
    effect: Annotated[str | None, typer.Option(help="refuse, ask or warn.")] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="What the requester is told.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="A profile it is about; may be repeated. Default: all.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For those who read the rules.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Keep it, but do not ask it.")] = False,
) -> None:
    """Make or change a rule: a new version of it, if it differs. Options go over what a file says."""
    rule = _rule_of(file) if file is not None else {}
    said = {
        "when": when,
        "effect": effect,
        "message": message,
        "profiles": profile,
        "description": description,
        "enabled": False if disabled else None,
    }
    rule |= {field: value for field, value in said.items() if value is not None}
    if rule.pop("name", name) != name:
        fail(REFUSED, f"{file} is another rule's: its name is not {name!r}")
    done = run.client.put("/rules" + at(name), rule).value
    run.say(done, f"rule {done['name']}, version {done['version']}, is in force")


def _rule_of(file: str) -> dict[str, Any]:
    """The rule in a file: the file itself, or the only one of a declaration."""
    document = read_document(file)
    if "rules" not in document:
        return document
    rules = document["rules"]
    if len(document) != 1 or not isinstance(rules, list) or len(rules) != 1 or not isinstance(rules[0], dict):
        fail(REFUSED, f"{file} declares something else than one rule: `certloom apply -f` takes it")
    rule: dict[str, Any] = rules[0]
    return rule


@command(app, "delete")
def delete(run: Run, name: str) -> None:
    """Ask a rule no longer. Its versions stay."""
    run.client.delete("/rules" + at(name))
    run.say({"deleted": name}, f"rule {name} is deleted")


@command(app, "explain")
def explain(
    run: Run,
    request: Annotated[str | None, typer.Argument(help="An enrolment request's id.")] = None,
    profile: Annotated[str | None, typer.Option(help="Or suppose a request: for this profile ...")] = None,
    csr: Annotated[Path | None, typer.Option(help="... with this CSR (PEM) ...")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="... or these names (DNS names, or type:value) ...")
    ] = None,
    key_type: Annotated[str | None, typer.Option(help="... and such a key: P-256, rsa-3072, ...")] = None,
    lifetime: Annotated[str | None, typer.Option(help="Asked lifetime, such as 30d.")] = None,
    team: Annotated[str | None, typer.Option(help="The team it would be for.")] = None,
    owner: Annotated[str | None, typer.Option(help="On whose behalf it would be asked.")] = None,
    protocol: Annotated[str | None, typer.Option(help="How it would be asked: acme, rest, ...")] = None,
    channel: Annotated[str | None, typer.Option(help="Through which channel.")] = None,
) -> None:
    """What policy says of a request, which rule decides it and why. Nothing is asked or kept."""
    if (request is None) == (profile is None):
        raise typer.BadParameter("give a request's id, or --profile and the rest of a supposed one")
    explain_question(
        run, _question(request, profile, csr, name, key_type, lifetime, team, owner, protocol, channel)
    )


def _question(
    request: str | None,
    profile: str | None,
    csr: Path | None,
    name: list[str] | None,
    key_type: str | None,
    lifetime: str | None,
    team: str | None,
    owner: str | None,
    protocol: str | None,
    channel: str | None,
) -> dict[str, Any]:
    question = {
        "request": request,
        "profile": profile,
        "csr": read(csr).decode("ascii", "replace") if csr is not None else None,
        "names": [each if ":" in each else f"dns:{each}" for each in name] if name else None,
        "key_type": key_type,
        "lifetime": seconds(lifetime),
        "team": team,
        "owner": owner,
        "protocol": protocol,
        "channel": channel,
    }
    return {field: value for field, value in question.items() if value is not None}


@command(app, "test")
def try_out(
    run: Run,
    file: Annotated[str, typer.Argument(help="A rule as TOML, or JSON if it ends in .json; - is stdin.")],
    limit: Annotated[int, typer.Option(min=0, help="How many certificates to show.")] = 20,
) -> None:
    """Try a rule on the whole inventory: what it would say of every certificate. It is not saved."""
    from certloom.cli.plans import run_plan

    rule = read_document(file)
    run_plan(run, rule if "rules" in rule else {"rules": [rule]}, limit)


def explain_question(run: Run, question: dict[str, Any]) -> None:
    """Ask, and show: the outcome, what decided it, each rule."""
    found = run.client.answer("POST", "/explanations", None, question).value
    if run.json:
        show.as_json(found)
        return
    show.record({name: value for name, value in found.items() if name != "rules"})
    if found["rules"]:
        show.table(found["rules"], ("rule", "effect", "matched", "message", "error"), "")


def _show(run: Run, found: dict[str, Any]) -> None:
    outer = {name: value for name, value in found.items() if name != "rule"}
    run.record(found if run.json else {**outer, **(found["rule"] or {"effect": "deleted"})})
