"""The settings page tells every key and its default, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec

from certloom.settings import Settings, parse
from certloom.settings.key_sources import Secrets

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def documented() -> dict[str, object]:
    """Every key in the page's tables, ``section.key``, with the default it states."""
    found: dict[str, object] = {}
    section = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"## (?:`\[([\w.]+)\]`|Top level)", line):
            section = f"{heading[1]}." if heading[1] else ""
        elif row := re.match(r"\| `(\w+)` \| `(.*?)` \| (.+) \|", line):
            found[section + row[1]] = tomllib.loads(f"x = {row[2]}")["x"]
    return found


def in_schema(section: msgspec.Struct | None = None, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    section = Settings() if section is None else section
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, Secrets) and prefix:
            continue  # the same keys as in the section of that name, where the page tells of them
        if isinstance(value, msgspec.Struct):
            found |= in_schema(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


def test_the_page_documents_every_key_with_its_default() -> None:
    assert documented() == in_schema()


def test_the_examples_on_the_page_are_good_settings() -> None:
    for example in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        parse(example)
