"""The documentation's examples are read by the product, and its links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from certloom.api.declarations import Document
from certloom.ceremony import script
from certloom.policy.profiles import parse_profile
from certloom.policy.rules import parse_rule
from certloom.settings import parse

_TOP = Path(__file__).parents[1]
_PAGES = [_TOP / "README.md", *sorted((_TOP / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OF_CEREMONIES = frozenset({"root", "certify", "crl", "holders"})
_DECLARED = frozenset(Document.__struct_fields__)
_EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in _PAGES
    for number, block in enumerate(_BLOCK.findall(page.read_text()))
]


def test_every_test_that_the_security_page_names_is_there() -> None:
    page = (_TOP / "docs" / "security.md").read_text()
    named = re.findall(r"`([a-z0-9_/]+\.py)(?:::(test_\w+))?`", page)
    assert len(named) > 60
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (path := _TOP / "tests" / file).exists()
        or (test and not re.search(rf"^(?:async )?def {test}\(", path.read_text(), re.MULTILINE))
    ]
    assert missing == []


@pytest.mark.parametrize("block", _EXAMPLES)
def test_an_example_in_toml_is_good_settings_or_a_good_declaration(block: str) -> None:
    table = tomllib.loads(block)
    if table.keys() & _OF_CEREMONIES:
        script.parse(block)
        return
    if not table.keys() & _DECLARED:
        parse(block)
        return
    document = msgspec.convert(table, Document)
    for profile in document.profiles:
        parse_profile(profile)
    for rule in document.rules:
        parse_rule(rule)


def test_links_between_pages_lead_to_pages() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in _PAGES
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
