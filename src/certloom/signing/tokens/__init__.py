"""Private keys in PKCS#11 tokens.

Vendors' modules crash, hang, and must not be called from two threads: each token has a process of its own,
which has loaded the module (``worker``), is asked one thing at a time, and is ended and started anew when the
token goes away or does not answer. A PIN that the token has called wrong is never tried again, by this
process or another, until it is another PIN or an operator says so.
"""

from certloom.signing.tokens.tokens import PINS, Tokens
from certloom.signing.tokens.uri import BadURI, TokenURI, parse

__all__ = ["PINS", "BadURI", "TokenURI", "Tokens", "parse"]
