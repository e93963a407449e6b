"""Files that commands write and read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from certloom.cli.options import REFUSED, USAGE
from certloom.cli.reach import fail


def save(file: Path | None, pieces: Iterable[bytes], *, private: bool = False, binary: bool = False) -> None:
    """Write to a file, or to standard output for None; a ``private`` file is its owner's alone.

    A file is put in place when it is whole. What is ``binary`` is not shown on a terminal.
    """
    if file is None or str(file) == "-":
        if binary and sys.stdout.isatty():
            fail(USAGE, "this is nothing for a terminal: name a file with -o")
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(partial, flags, 0o600 if private else 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.writelines(pieces)
            os.rename(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        fail(REFUSED, f"{file}: {error.strerror}")


def read(file: Path) -> bytes:
    """What a file holds, or what comes on standard input for ``-``; or the end."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        return fail(REFUSED, f"{file}: {error.strerror}")
