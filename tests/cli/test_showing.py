"""What people see: nothing raw from elsewhere, tables that fit, help for every command, completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certloom.cli import options, show
from certloom.cli.main import TREE, load
from certloom.cli.terminal import fit_json
from tests.cli.shell import COMMAND

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs/cli.md"
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if not inner:
        yield path, command
        return
    for name, each in inner.items():
        yield from commands(each, (*path, name))


EVERY = [found for name in TREE for found in commands(load(name), (name,))]


def test_nothing_raw_from_elsewhere_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "x\x1b]0;owned\x07\r\u202eexe.txt\x9b2J"
    show.record(
        {"name": evil, "names": [evil], "pem": f"a\n{evil}", "things": [{evil: evil}], evil: {"a": evil}}
    )
    show.table([{"name": evil, "id": evil}], ("id", "name"), "nothing")
    show.line(evil)
    show.as_json({"name": evil, evil: [evil]})
    told = capsys.readouterr()
    unfit = {character for character in told.out if not character.isprintable()} - {"\n"}
    assert unfit == set()


def test_json_that_is_made_fit_says_the_same() -> None:
    import json

    value = {"a": "x\x7f\u2028\u009b\u202e", "b": ["\x00"]}
    assert json.loads(fit_json(json.dumps(value, ensure_ascii=False))) == value


def test_times_are_shown_to_the_minute() -> None:
    assert show.text("2026-11-23T10:00:59Z") == "2026-11-23 10:00Z"
    assert show.text("2026-11-23T10:00:59.25Z") == "2026-11-23 10:00Z"
    assert show.text(None) == "-"


def on_a_terminal(rows: list[dict[str, Any]], columns: tuple[str, ...], width: int) -> list[str]:
    code = f"from certloom.cli import show; show.table({rows!r}, {columns!r}, '')"
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "FORCE_COLOR": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in done.stdout.splitlines()]


def test_tables_fit_eighty_columns_of_a_terminal() -> None:
    name = "dns:" + "a" * 60 + ".example.com"
    row = {"id": "f" * 32, "names": [name, name], "profile": "p" * 40, "expires": "2026-11-23T10:00:00Z"}
    lines = on_a_terminal([row], ("id", "names", "profile", "expires"), 80)
    assert "f" * 32 in "".join(lines)
    assert max(map(len, lines)) <= 80


EVENT = {
    "at": "2026-11-23T10:00:00Z",
    "kind": "approval.waiting",
    "subject": f"approval:{'a1' * 16}",
    "actor": f"person:{'b2' * 16}",
    "sequence": 17,
}
EVENT_COLUMNS = ("at", "kind", "subject", "actor?", "sequence?=no.")


@pytest.mark.parametrize(
    ("width", "left"), [(124, ["actor", "no."]), (121, ["actor"]), (80, []), (40, [])], ids=str
)
def test_a_narrow_terminal_gets_fewer_columns_but_every_id_whole(width: int, left: list[str]) -> None:
    lines = on_a_terminal([EVENT, {**EVENT, "subject": "profile:web"}], EVENT_COLUMNS, width)
    assert lines[0].split() == ["at", "kind", "subject", *left]
    assert str(EVENT["subject"]) in "".join(lines)
    assert ("b2" * 16 in "".join(lines)) is ("actor" in left)
    assert any("2026-11-23 10:00Z" in line for line in lines)


def test_serials_and_keys_are_whole_in_any_column() -> None:
    row = {"name": "x" * 90, "serial": "ab" * 16, "key": "cd" * 32}
    lines = on_a_terminal([row], ("name", "serial", "key"), 80)
    assert "ab" * 16 in "".join(lines)
    assert "cd" * 32 in "".join(lines)


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_every_command_says_what_it_does_and_has_a_place_in_the_docs(
    path: tuple[str, ...], command: Any
) -> None:
    assert command.help
    for parameter in command.params:
        # Arguments that say all with their name need no more; options do.
        assert getattr(parameter, "help", None) or not parameter.opts[0].startswith("-"), parameter.opts
    page = DOCS.read_text()
    assert f"certloom {' '.join(path)}" in page, f"docs/cli.md has no example of `certloom {' '.join(path)}`"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_examples_in_the_docs_are_commands_with_options_that_there_are(page: Path) -> None:
    known = dict(EVERY)
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        found = re.match(r"(?:\S*/)?certloom (.*)", line.strip())
        if found is None:
            continue
        words = shlex.split(found[1], comments=True)
        path = next((tuple(words[:n]) for n in (3, 2, 1) if tuple(words[:n]) in known), None)
        if path is None:
            assert words[0].startswith("--"), line
            continue
        there = {name for option in known[path].params for name in option.opts + option.secondary_opts}
        used = {word.partition("=")[0] for word in words if re.match("-[-a-zA-Z]", word)}
        assert used <= there | {"--help"}, (line, used - there)


def test_the_help_of_the_table_is_about_the_same_commands() -> None:
    assert all(load(name).help for name in TREE)


def test_exit_statuses_are_in_the_help_and_in_the_docs() -> None:
    page = DOCS.read_text()
    for status in (
        options.OK,
        options.REFUSED,
        options.USAGE,
        options.BAD_SETTINGS,
        options.UNREACHABLE,
        options.NOT_INTACT,
        options.WAITING,
        options.NOT_ALLOWED,
    ):
        assert f"{status} " in options.EPILOG
        assert f"| {status} |" in page


def complete(words: str) -> list[str]:
    environment = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_CERTLOOM_COMPLETE": "complete_bash",
    }
    done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_commands_options_and_values() -> None:
    assert complete("certloom cert") == ["certificate"]
    assert {"list", "show", "revoke", "hold"} <= set(complete("certloom certificate "))
    assert "--expires-before" in complete("certloom certificate list --exp")
    assert complete("certloom request list --state awa") == ["awaiting_approval"]


@pytest.mark.parametrize("words", ["--help", "certificate --help", "certificate list --help", "status -h"])
def test_help_loads_nothing_that_it_does_not_need(words: str) -> None:
    code = (
        "import sys; from certloom.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print([name for name in sys.modules if name.startswith('pydantic')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_script_for_bash_completes_in_bash(tmp_path: Path) -> None:
    # The shell is told by whose child the command is.
    shown = subprocess.run(
        ["bash", "-c", f"{COMMAND} --show-completion; true"], capture_output=True, text=True, check=True
    )
    (tmp_path / "completion").write_text(shown.stdout)
    script = (
        f"source {tmp_path}/completion; COMP_WORDS=({COMMAND} aud); COMP_CWORD=1;"
        f" _certloom_completion {COMMAND}; echo ${{COMPREPLY[0]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "audit"
