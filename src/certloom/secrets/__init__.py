"""Secrets at rest: the data key and what it seals."""

from certloom.secrets.data_key import DataKey, SealError

__all__ = ["DataKey", "SealError"]
