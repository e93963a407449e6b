"""What handlers work with: the rooms below, as the server put them together.

The server fills this in (``server/services.py``); what only a server or its data directory can do comes as a
function. Who adds a part adds a field here and its value there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import msgspec

    from certloom.api.cursors import Cursors
    from certloom.audit import Checkpoints
    from certloom.authorities.certifying import Certifier
    from certloom.clock import Clock
    from certloom.enrollment.approvals import Approvals
    from certloom.enrollment.books import Books
    from certloom.enrollment.compromise import Compromise
    from certloom.enrollment.pipeline import Enrollment
    from certloom.enrollment.revoke import Revoker
    from certloom.enrollment.server_keys import ServerKeys
    from certloom.identity.authentication import Authentication
    from certloom.identity.credentials import Credentials
    from certloom.identity.login import Logins
    from certloom.identity.oidc_login import OIDCLogins
    from certloom.identity.people import People
    from certloom.identity.ratelimit import Limit
    from certloom.jobs import Runner
    from certloom.notifications import Webhooks
    from certloom.secrets import DataKey
    from certloom.settings import Origins, Settings
    from certloom.signing import Signing
    from certloom.status.crl import CRLPublisher
    from certloom.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All parts that handlers use."""

    settings: Settings
    clock: Clock
    origins: Origins
    """What clients call the listeners."""
    node: str
    """Which process of the installation this is."""
    store: Store
    data_key: DataKey
    signing: Signing
    certifier: Certifier
    """Signs CA certificates."""
    books: Books
    credentials: Credentials
    runner: Runner
    enrollment: Enrollment
    approvals: Approvals
    server_keys: ServerKeys
    revoker: Revoker
    compromise: Compromise
    crls: CRLPublisher
    checkpoints: Checkpoints
    """Signs places of the audit log."""
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None
    """The exposition for an Accept header, and its content type; None where nothing is served."""
    people: People
    logins: Logins
    oidc: OIDCLogins | None
    """Login through the identity provider, where settings name one."""
    webhooks: Webhooks
    authentication: Authentication
    failures: Limit
    """Failed authentications, by address; the console counts here as well."""
    cursors: Cursors
    refresh: Callable[[], Awaitable[bool]]
    """Take up changes of the configuration; answers whether there were any."""
    backup: Callable[[str, bool], Awaitable[tuple[str, msgspec.Struct]]]
    """Write a backup; answers its path and its manifest. Raises ``Problem``.

    With True to an absolute path, otherwise to a file of that name in the data directory.
    """
