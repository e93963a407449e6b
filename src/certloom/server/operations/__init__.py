"""What an operator can ask of Certloom, each as one function, whoever carries the wish.

The command line sends them to the running server through the admin socket, or runs them itself where no
server runs; either way it is the function here that does it.
"""

from certloom.server.operations import (
    apply,
    audit,
    backup,
    certificates,
    configuration,
    credentials,
    requests,
)
from certloom.server.operations.registry import OperationError, perform

__all__ = [
    "OperationError",
    "apply",
    "audit",
    "backup",
    "certificates",
    "configuration",
    "credentials",
    "perform",
    "requests",
]
