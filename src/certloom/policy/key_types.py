"""Keys by their type in one word, where no key is at hand."""

from __future__ import annotations

from functools import lru_cache

from certloom.pki.keys import PublicKeyFacts

_CURVES = {"P-256": 256, "P-384": 384, "P-521": 521}
_OTHERS = ("ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "ml-kem-768", "ml-kem-1024")


@lru_cache(maxsize=256)
def key_of_type(text: str) -> PublicKeyFacts:
    """What is known of a key of this type (``P-256``, ``rsa-3072``, ``ed25519``): all but the key itself.

    Raises ``ValueError``.
    """
    if text in _CURVES:
        return PublicKeyFacts(b"", b"", "ec", _CURVES[text], text)
    if text in _OTHERS:
        return PublicKeyFacts(b"", b"", text, 0)
    algorithm, _, bits = text.partition("-")
    if algorithm != "rsa" or not bits.isdecimal() or not bits.isascii() or not 512 <= int(bits[:6]) <= 65536:
        raise ValueError(f"{text[:40]!r} is none of {', '.join((*_CURVES, *_OTHERS))} or rsa-BITS")
    return PublicKeyFacts(b"", b"", "rsa", int(bits))
