"""Other people's tools for tests: those of a Debian sid (``scripts/install-sid``), and programs in Go."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SID = TOP / ".test-tools" / "sid"


def sid(program: str) -> list[str]:
    """How to start a program of Debian sid, with files as they are here; skips where there is none."""
    if not (SID / ".complete").exists():
        pytest.skip("no Debian sid: run scripts/install-sid as root")
    libraries = ":".join(str(SID / where / "x86_64-linux-gnu") for where in ("usr/lib", "lib"))
    loader = SID / "usr" / "lib64" / "ld-linux-x86-64.so.2"
    if not loader.exists():
        pytest.skip("Debian sid is of a processor that these tests do not know")
    return [str(loader), "--library-path", libraries, str(SID / "usr" / "bin" / program)]


def installed(program: str) -> list[str]:
    """A program of this machine's; skips where there is none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: run scripts/install-test-tools")
    return [found]


@lru_cache
def go_program(name: str) -> list[str]:
    """A program of ``tests/go``, built once; skips where go is not."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    built = TOP / ".test-tools" / "go" / name
    source = TOP / "tests" / "go" / f"{name}.go"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([go, "build", "-o", built, source], check=True, cwd=source.parent)
    return [str(built)]


def said(command: list[str], *arguments: str | Path, stdin: bytes = b"") -> tuple[bool, str]:
    """Whether it succeeded, and all that it printed."""
    done = subprocess.run([*command, *map(str, arguments)], input=stdin, capture_output=True, timeout=60)
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
