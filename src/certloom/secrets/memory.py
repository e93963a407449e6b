"""What can be done to keep keys in memory from reaching a disk or another process of the same user.

It is the best effort of a program in Python: copies of a key may lie in freed memory until it is used again.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def refuse_dumps() -> None:
    """No core dump of this process, nor of its children, and no debugger of the same user (prctl(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock() -> str:
    """Keep this process's memory out of swap (mlockall(2)). Empty, or why that was not possible."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0:
            return ""
        return os.strerror(ctypes.get_errno())
    except (OSError, AttributeError):
        return "this system has no mlockall"
