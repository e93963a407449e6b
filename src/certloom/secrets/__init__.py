"""The keys that encrypt keys: where they come from, and every secret the product holds at rest under them."""

from certloom.secrets.data_key import DataKey
from certloom.secrets.errors import SecretError, WrongPassphrase
from certloom.secrets.sources import load_key

__all__ = ["DataKey", "SecretError", "WrongPassphrase", "load_key"]
