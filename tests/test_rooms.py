"""The house keeps its shape: a room imports only from rooms above it, and no modules import in a circle.

Imports are found by parsing, so those inside functions and under ``TYPE_CHECKING`` count as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import certloom

ROOT = Path(certloom.__file__).parent

# Ground floor first. A room may import from those before it; of those on one line, from those to its left.
# Rooms in braces stand side by side and do not know each other.
FLOORS: tuple[tuple[str, ...] | frozenset[str], ...] = (
    ("clock", "unix_sockets", "settings", "logs", "secrets"),
    ("pki",),
    ("policy",),
    ("signing",),
    ("store",),
    ("audit", "jobs", "outbound"),
    ("identity", "notifications"),
    ("authorities", "ceremony"),
    ("inventory", "status"),
    ("validation",),
    ("enrollment",),
    ("endpoints",),
    ("lifecycle",),
    frozenset(("protocols.acme", "protocols.est", "protocols.scep", "protocols.cmp")),
    frozenset(("connectors", "agent")),
    frozenset(("api", "console")),
    ("server",),
    ("cli",),
)


def room(module: str) -> str:
    """The room a module is in (``protocols.acme``); empty for the package itself."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == ["protocols"] else "".join(parts[:1])


def places() -> dict[str, tuple[int, int]]:
    """Each room's floor, and its place there; rooms side by side have the same."""
    found = {}
    for height, floor in enumerate(FLOORS):
        for place, name in enumerate(floor):
            found[name] = (height, 0 if isinstance(floor, frozenset) else place)
    return found


PLACES = places()


def may_import(importer: str, imported: str) -> bool:
    """Whether a room may import from another."""
    return importer == imported or PLACES[imported] < PLACES[importer]


def modules(root: Path) -> dict[str, Path]:
    """Every module below a package directory, by its full name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a module names in an import statement, wherever that stands."""
    found: set[str] = set()
    top = module.split(".")[0]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == top}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            if source.split(".")[0] == top:
                for name in node.names:
                    whole = f"{source}.{name.name}"
                    found.add(whole if whole in known else source)
    return found - {module}


def graph(root: Path) -> dict[str, set[str]]:
    """Which module imports which."""
    known = modules(root)
    return {module: imports(module, path, known) for module, path in known.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Import circles, each as the modules on the way round."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for imported in sorted(edges.get(module, ())):
                visit(imported, [*way, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


GRAPH = graph(ROOT)


def test_every_folder_is_a_room_of_the_house() -> None:
    unknown = {room(module) for module in GRAPH} - set(PLACES) - {"", "protocols"}
    assert not unknown, f"not in the plan: {sorted(unknown)}"


def test_a_room_imports_only_from_rooms_above_it() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, found in sorted(GRAPH.items())
        for imported in sorted(found)
        if room(module) in PLACES
        and room(imported) in PLACES
        and not may_import(room(module), room(imported))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = circles(GRAPH)
    assert not found, "\n".join(" -> ".join(way) for way in found)


def test_the_packages_without_a_room_import_nothing() -> None:
    assert not GRAPH["certloom"]
    assert not GRAPH["certloom.protocols"]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("store", "pki", True),
        ("pki", "store", False),
        ("status", "inventory", True),
        ("inventory", "status", False),
        ("server", "protocols.acme", True),
        ("enrollment", "protocols.acme", False),
        ("protocols.est", "protocols.acme", False),
        ("secrets", "clock", True),
        ("clock", "settings", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


def _write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / "house" / Path(*name.split("__"))
        path = path.with_suffix(".py") if name else root / "house" / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "house"


def test_imports_are_found_wherever_and_however_they_are_written(tmp_path: Path) -> None:
    house = _write(
        tmp_path,
        pki__names="",
        pki__keys="",
        store__base="",
        policy__rules=(
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from house.store import base\n"
            "def f():\n    import house.pki.names\n    from ..pki.keys import x\n"
        ),
    )
    assert graph(house)["house.policy.rules"] == {"house.store.base", "house.pki.names", "house.pki.keys"}


def test_a_circle_is_found_through_any_number_of_modules(tmp_path: Path) -> None:
    house = _write(
        tmp_path,
        a="import house.b",
        b="def f():\n    from house import c",
        c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.a import x",
        d="import house.a",
    )
    assert circles(graph(house)) == [["house.a", "house.b", "house.c", "house.a"]]
