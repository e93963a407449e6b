"""Every process setting, with its default. ``docs/settings.md`` documents each key; a test holds it to that.

Profiles, channels, credentials and authorities are not here: they live in the database.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated

import msgspec

from certloom.settings.key_sources import Secrets
from certloom.settings.tokens import Token

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Listen(_Section, frozen=True):
    """Addresses to listen on, ``host:port``; an empty string turns a listener off."""

    https: str = "0.0.0.0:8443"
    http: str = "0.0.0.0:8080"
    """CA certificates and CRLs (and later SCEP and CMP): never ACME."""
    acme_plain: str = ""
    """ACME without TLS, for labs or behind a proxy on this host: loopback addresses only."""
    https_client: str = ""
    """HTTPS that asks for a client certificate: EST, and the REST API, for those who prove themselves with
    one."""
    metrics: str = ""
    """Prometheus metrics and health without authentication, over plain HTTP."""
    tls_certificate: str = ""
    """PEM chain for the HTTPS listener, leaf first; reloaded on change. Empty: one of the product's own."""
    tls_key: str = ""
    """PEM private key to it, unencrypted."""


class Proxy(_Section, frozen=True):
    """Proxies at which clients' TLS ends, before the HTTPS listeners."""

    trusted: tuple[str, ...] = ()
    """Addresses, or ranges of them, whose word on clients' certificates and addresses counts."""
    certificate_header: Annotated[str, msgspec.Meta(pattern="^[A-Za-z][A-Za-z0-9-]{0,62}$")] = "Client-Cert"
    """The header that has the client's certificate (RFC 9440)."""


class Limits(_Section, frozen=True):
    """What a client may cost before it has proved anything."""

    body_bytes: Positive = 131_072
    header_bytes: Positive = 16_384
    header_count: Positive = 64
    header_seconds: Positive = 10
    """Time to complete the headers of one request."""
    body_seconds: Positive = 30
    """Time to complete one request's body."""
    idle_seconds: Positive = 75
    """Time a kept-alive connection may sit between requests."""
    connections: Positive = 10_000
    stop_seconds: Positive = 20
    """Time that requests in flight get to finish when the server is told to stop."""


class Database(_Section, frozen=True):
    """Where the state lives."""

    url: str = ""
    """``postgresql://...`` or ``sqlite:///path``; empty means ``certloom.db`` in the data directory."""
    connections: Positive = 8
    """PostgreSQL connections of this process."""


class ACME(_Section, frozen=True):
    """ACME on every channel of this process; what differs by channel lives in the channel."""

    authorization_lifetime: Positive = 86_400
    """Seconds a pending authorization, and its order, may wait."""
    authorization_reuse: NotNegative = 2_592_000
    """Seconds a valid authorization stays valid and may serve further orders; 0 means one order each."""
    order_lifetime: Positive = 604_800
    refuse_good_nonces: Share = 0.0
    """Share of good nonces refused with badNonce: to find out which clients retry. Tests only."""
    identifiers_per_order: Positive = 100
    orders_open_per_account: Positive = 1_000
    nonce_seconds: Positive = 3_600
    terms_of_service: str = ""
    website: str = ""


class Validation(_Section, frozen=True):
    """How proof of control is sought."""

    http_port: Port = 80
    tls_alpn_port: Port = 443
    resolvers: tuple[str, ...] = ()
    """``address`` or ``address:port`` of (validating) resolvers; empty means the system's."""
    dnssec: bool = False
    """Ask the resolver for DNSSEC and require the AD bit on CAA answers."""
    allow_addresses: tuple[str, ...] = ()
    """Address ranges that may be contacted although a deny range holds them."""
    deny_addresses: tuple[str, ...] = ()
    """Further ranges never contacted; loopback, link-local, multicast and unspecified always are denied."""
    timeout_seconds: Positive = 10
    redirects: NotNegative = 5
    retries: tuple[Positive, ...] = (2, 5, 15)
    """Seconds before each further try of a challenge that failed for a passing reason."""


class API(_Section, frozen=True):
    """The REST API and people's sessions."""

    requests_per_minute: Positive = 1_200
    """Requests that one principal may make in a minute."""
    failures_per_minute: Positive = 30
    """Failed authentications that one address may make in a minute."""
    session_idle_seconds: Positive = 3_600
    session_seconds: Positive = 43_200
    idempotency_seconds: Positive = 86_400
    """How long an answer is kept for a repeat with the same Idempotency-Key."""


class Mail(_Section, frozen=True):
    """How email leaves (SMTP); without a host none does."""

    host: str = ""
    port: Port = 587
    security: Annotated[str, msgspec.Meta(pattern="^(starttls|tls|none)$")] = "starttls"
    username: str = ""
    password_file: str = ""
    sender: str = ""
    """The address it is from."""
    roots: str = ""
    """PEM file of trust anchors for the mail server; empty means the system's."""


class OIDC(_Section, frozen=True):
    """Login through an OpenID Connect provider; without an issuer there is none."""

    issuer: str = ""
    client_id: str = ""
    client_secret_file: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    roles: dict[str, tuple[str, ...]] = {}
    """Roles by group; they are granted at each login, everywhere."""
    teams: dict[str, tuple[str, ...]] = {}
    """Teams by group."""
    create_people: bool = False
    """Whether a first login makes an account, where there is none of that name."""
    link_by_name: bool = False
    """Whether a first login takes an account of that name that has no password and no other link."""


class Outbound(_Section, frozen=True):
    """Connections that an operator's settings cause: webhooks, identity providers."""

    allow_addresses: tuple[str, ...] = ()
    """Address ranges that may be contacted although they are loopback, link-local or otherwise denied."""
    roots: str = ""
    """PEM file of further trust anchors for their servers."""


class Audit(_Section, frozen=True):
    """What leaves the audit log."""

    checkpoint_seconds: Positive = 3_600
    """How often the end of the chain is signed, if it moved."""
    syslog: Annotated[str, msgspec.Meta(pattern=r"^$|^(udp|tcp|tls)://[^/@?#]+:[0-9]{1,5}/?$")] = ""
    """``udp://host:port``, ``tcp://host:port`` or ``tls://host:port``: where events go (RFC 5424)."""
    syslog_roots: str = ""
    """PEM file of trust anchors for ``tls``; empty means the system's."""


class Enrollment(_Section, frozen=True):
    """What one requester may have waiting for people, whichever protocol brings it.

    All who ask on behalf of one owner (a person's tokens, certificates, ACME accounts) count as one.
    """

    waiting_per_requester: Positive = 100
    """Requests that may wait for people at a time."""
    approvals_per_day: Positive = 100
    """Times within a day that people may be asked something new."""


class CTLog(_Section, frozen=True):
    """A Certificate Transparency log (RFC 6962)."""

    url: str
    """What ``/ct/v1/add-pre-chain`` is appended to."""
    key: str
    """Its public key: base64 of the DER SubjectPublicKeyInfo."""
    expires_from: date | None = None
    """It takes certificates that expire on this day (UTC) or later."""
    expires_until: date | None = None
    """It takes certificates that expire before this day (UTC)."""


class CT(_Section, frozen=True):
    """Certificate Transparency: the logs that profiles name."""

    timeout_seconds: Positive = 10
    """How long a log may take to answer."""
    logs: dict[str, CTLog] = {}
    """By name."""


class Signer(_Section, frozen=True):
    """Who holds the keys of authorities."""

    mode: Annotated[str, msgspec.Meta(pattern="^(spawned|external|in-process)$")] = "spawned"
    """``spawned``: a process that the server starts. ``external``: one that somebody else starts."""
    directory: str = ""
    """Where its key and its limits are; empty means the data directory."""
    socket: str = ""
    """Where it listens; empty means ``signer.sock`` in the data directory."""
    user: str = ""
    """The user that the signer becomes where ``certloom serve`` is started as root."""
    server_users: tuple[str, ...] = ()
    """Users that may ask a signer that runs on its own; its own user always may."""
    secrets: Secrets = Secrets()
    """Where the key comes from that seals the authorities' keys."""
    tokens: dict[str, Token] = {}
    """PKCS#11 tokens that keys may be in, by name."""


class Retention(_Section, frozen=True):
    """Days that finished things are kept; 0 keeps them for ever."""

    orders_days: NotNegative = 90
    authorizations_days: NotNegative = 90
    jobs_days: NotNegative = 7
    events_days: NotNegative = 0
    approvals_days: NotNegative = 365


class Logging(_Section, frozen=True):
    level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    format: Annotated[str, msgspec.Meta(pattern="^(json|text)$")] = "json"


class Settings(_Section, frozen=True):
    """One process's settings."""

    data_dir: str = "certloom-data"
    user: str = ""
    """The user that ``certloom serve`` becomes where it is started as root."""
    public_url: str = ""
    """The HTTPS origin clients use, e.g. ``https://pki.example.com``; empty means ``https://localhost:PORT``,
    or the one address listened on."""
    public_http_url: str = ""
    """The plain HTTP origin written into certificates (CDP, AIA); empty means ``http://HOST:PORT``."""
    acme_plain_url: str = ""
    """The origin of the plain ACME listener as clients see it; empty means ``http://ADDRESS:PORT``."""
    listen: Listen = Listen()
    proxy: Proxy = Proxy()
    limits: Limits = Limits()
    database: Database = Database()
    secrets: Secrets = Secrets()
    signer: Signer = Signer()
    acme: ACME = ACME()
    validation: Validation = Validation()
    enrollment: Enrollment = Enrollment()
    retention: Retention = Retention()
    api: API = API()
    mail: Mail = Mail()
    oidc: OIDC = OIDC()
    outbound: Outbound = Outbound()
    audit: Audit = Audit()
    ct: CT = CT()
    logging: Logging = Logging()
