"""Process settings: one TOML file into one frozen ``Settings``."""

from certloom.settings.load import SettingsError, load, parse
from certloom.settings.origins import Address, Origins, origins, parse_address
from certloom.settings.schema import Settings

__all__ = ["Address", "Origins", "Settings", "SettingsError", "load", "origins", "parse", "parse_address"]
