"""The data key, and what it encrypts: every private key and shared secret the product holds at rest."""

from certloom.secrets.data_key import DataKey, SecretError

__all__ = ["DataKey", "SecretError"]
