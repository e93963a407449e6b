"""ACME (RFC 8555) with its extensions.

``jws``, ``jwk``, ``messages``, ``nonces``, ``problems`` and ``states`` are pure. ``service`` holds what the
handlers share and finds out who asks; they are in modules named for their subject; ``routes`` is HTTP.
"""
