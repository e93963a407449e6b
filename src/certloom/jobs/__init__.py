"""Durable background work: what is enqueued in a transaction is done, once, whatever dies in between."""

from certloom.jobs.queue import Job, LeaseLost, enqueue, prune
from certloom.jobs.runner import Retry, Runner

__all__ = ["Job", "LeaseLost", "Retry", "Runner", "enqueue", "prune"]
