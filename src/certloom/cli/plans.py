"""``certloom plan``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.carriers import Unreachable
from certloom.cli.configuration import read_document
from certloom.cli.progress import progress
from certloom.cli.run import Run, command, single
from certloom.cli.terminal import fit_json

app = single()


@command(app, "plan")
def plan(
    run: Run,
    file: Annotated[
        str, typer.Argument(help="What `apply` would be given, in TOML or JSON (.json); - is stdin.")
    ],
    limit: Annotated[int, typer.Option(min=0, help="How many certificates to show.")] = 20,
) -> None:
    """Say what a change of profiles, rules or authorities would mean for every certificate in use.

    Nothing is changed. Beside what `apply` reads, a file may hold `[[rules]]`, and `[remove]` with names of
    `profiles`, `rules` and `authorities` that would be no more. With --json all certificates are told, a
    line of JSON each, and the summary last.
    """
    run_plan(run, read_document(file), limit)


def run_plan(run: Run, document: dict[str, Any], limit: int) -> None:
    """Run a plan and show what comes of it."""
    summary: dict[str, Any] = {}
    told: list[dict[str, Any]] = []
    with progress("judging certificates") as went:
        for line in _lines(run, document):
            if "progress" in line:
                went(line["progress"]["done"], line["progress"]["total"])
            elif run.json:
                print(fit_json(json.dumps(line, ensure_ascii=False)))
            elif "summary" in line:
                summary = line["summary"]
            elif len(told) < limit:
                told.append(line["certificate"])
    if not run.json:
        _show(summary, told)


def _lines(run: Run, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    last: dict[str, Any] = {}
    for last in run.client.lines("POST", "/plans", None, document):
        if "failed" in last:
            raise Unreachable(f"the plan came to no end: {last['failed']}")
        yield last
    if "summary" not in last:
        raise Unreachable("the plan broke off")


def _show(summary: dict[str, Any], told: list[dict[str, Any]]) -> None:
    rows = [
        {"": "today", **summary["before"]},
        {"": "then", **summary["after"]},
    ]
    show.line(f"{summary['in_use']} certificates in use, of {summary['total']}.")
    show.table(rows, ("", "compliant", "ask=need approval", "refused"), "")
    if not summary["changed"]:
        print("Nothing would be different for any of them.")
        return
    show.line(f"{summary['changed']} would be told something else:")
    for reason, count in sorted(summary["reasons"].items(), key=lambda item: -item[1]):
        show.line(f"  {count:>8}  {reason}")
    for row in told:
        row["why"] = "; ".join(reason["message"] for reason in row["reasons"])
    show.table(told, ("id", "names", "profile?", "before", "after", "why"), "")
    if len(told) < summary["changed"]:
        print(f"{summary['changed'] - len(told)} more; --limit shows them, --json tells all.")
