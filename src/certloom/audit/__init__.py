"""The audit log: every change of state is an event, written in the same transaction as the change."""

from certloom.audit.chain import link, prune
from certloom.audit.checkpoints import Checkpoint, CheckpointError, Checkpoints
from certloom.audit.events import SYSTEM, Origin, record
from certloom.audit.export import Range, export
from certloom.audit.verification import Verdict, verify, verify_export
from certloom.audit.walk import Fault

__all__ = [
    "SYSTEM",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "Fault",
    "Origin",
    "Range",
    "Verdict",
    "export",
    "link",
    "prune",
    "record",
    "verify",
    "verify_export",
]
