"""Proof of control over what a certificate is to name.

``Validator.validate`` checks one challenge once; who calls it decides about retries. ``CAAChecker.check``
asks whether the domain's owner lets this CA issue at all.
"""

from certloom.validation.caa import CAAChecker
from certloom.validation.proof import Proof, Validated, ValidationFailed, ValidationRecord
from certloom.validation.validator import Validator

__all__ = ["CAAChecker", "Proof", "Validated", "ValidationFailed", "ValidationRecord", "Validator"]
