"""A key in an environment variable: taken, and then nowhere to be found there any more.

What a process was started with stays readable in ``/proc/PID/environ`` (and ``ps e``) to its user, whatever
the process unsets. So the octets themselves are overwritten as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from certloom.secrets.errors import SecretError


def take(variable: str) -> str:
    """The variable's value, which is removed. Raises ``SecretError`` when it is not set."""
    value = os.environ.pop(variable, None)
    if not value:
        raise SecretError(f"the environment variable {variable} is not set")
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            _overwrite(f"{variable}={value}".encode("utf-8", "surrogateescape"))
    return value


def _overwrite(setting: bytes) -> None:
    # proc(5): fields 50 and 51 are where the initial environment lies; the second field may hold spaces.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    if not 0 < start < end:
        return
    # The block is NAME=VALUE strings, each with a zero after it; unsetenv changed only pointers to them.
    block = ctypes.string_at(start, end - start)
    at = (b"\0" + block).find(b"\0" + setting + b"\0")
    if at >= 0:
        name = setting.index(b"=") + 1
        ctypes.memset(start + at + name, ord("x"), len(setting) - name)
