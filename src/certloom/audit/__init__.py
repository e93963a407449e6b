"""The audit log: every change of state is an event, written in the same transaction as the change."""

from certloom.audit.chain import Fault, Verdict, link, prune, verify
from certloom.audit.events import SYSTEM, Origin, record

__all__ = ["SYSTEM", "Fault", "Origin", "Verdict", "link", "prune", "record", "verify"]
