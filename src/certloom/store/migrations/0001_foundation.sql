-- Written for SQLite; for PostgreSQL the runner rewrites INTEGER PRIMARY KEY to an identity column,
-- INTEGER to BIGINT, BLOB to BYTEA, TEXT to TEXT COLLATE "C", and drops STRICT and WITHOUT ROWID (which
-- saves SQLite a second tree where the key is not a number). ON POSTGRESQL statements are for it alone.

CREATE TABLE facts (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Private keys the product holds, sealed under the data key.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    spki BLOB NOT NULL,
    sealed BLOB NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE authorities (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    issuer TEXT REFERENCES authorities (name),
    certificate BLOB NOT NULL,
    key_identifier BLOB NOT NULL,
    key_id TEXT REFERENCES keys (id),
    crl_shards INTEGER NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;

-- A serial is here from before it is signed until its certificate is recorded. What a crash leaves
-- behind becomes 'burned'; what a restore cannot account for becomes 'unknown'. Neither is used again.
CREATE TABLE serials (
    authority TEXT NOT NULL,
    serial BLOB NOT NULL,
    state TEXT NOT NULL,
    node TEXT NOT NULL,
    reserved INTEGER NOT NULL,
    PRIMARY KEY (authority, serial)
) STRICT, WITHOUT ROWID;

-- Spans of time whose issuances a restore lost: serials of that span are issued but unknown.
CREATE TABLE lost_spans (
    id INTEGER PRIMARY KEY,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT;

CREATE TABLE profiles (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE channels (
    protocol TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (protocol, name)
) STRICT;

CREATE TABLE credentials (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    protocol TEXT,
    channel TEXT,
    secret_hash BLOB,
    secret_sealed BLOB,
    names TEXT NOT NULL,
    preauthorized INTEGER NOT NULL,
    uses_left INTEGER,
    expires INTEGER,
    created INTEGER NOT NULL,
    last_used INTEGER,
    revoked INTEGER
) STRICT;
CREATE UNIQUE INDEX credentials_secret_hash ON credentials (secret_hash);

CREATE TABLE enrolment_requests (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    protocol TEXT NOT NULL,
    channel TEXT NOT NULL,
    requester TEXT NOT NULL,
    profile TEXT NOT NULL,
    profile_version INTEGER NOT NULL,
    ask TEXT NOT NULL,
    csr BLOB NOT NULL,
    reasons TEXT NOT NULL,
    approvals_needed INTEGER NOT NULL,
    approvals TEXT NOT NULL,
    idempotency_key TEXT,
    certificate_id INTEGER,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    expires INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX enrolment_requests_idempotency ON enrolment_requests (idempotency_key);
CREATE INDEX enrolment_requests_open ON enrolment_requests (state, updated)
    WHERE state IN ('received', 'awaiting_approval', 'approved', 'issuing');

CREATE TABLE certificates (
    id INTEGER PRIMARY KEY,
    authority TEXT NOT NULL,
    serial BLOB NOT NULL,
    der BLOB NOT NULL,
    spki_sha256 BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    profile TEXT NOT NULL,
    profile_version INTEGER NOT NULL,
    requester TEXT NOT NULL,
    request_id TEXT NOT NULL,
    crl_shard INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    revoked INTEGER,
    revocation_reason INTEGER,
    replace_since INTEGER,
    replace_why TEXT,
    replaced_by INTEGER
) STRICT;
CREATE UNIQUE INDEX certificates_serial ON certificates (authority, serial);
CREATE INDEX certificates_spki ON certificates (spki_sha256);
CREATE INDEX certificates_not_after ON certificates (not_after);
CREATE INDEX certificates_revoked ON certificates (authority, crl_shard, not_after) WHERE revoked IS NOT NULL;

CREATE TABLE certificate_names (
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    certificate_id INTEGER NOT NULL,
    PRIMARY KEY (name, type, certificate_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE blocked_keys (
    spki_sha256 BLOB PRIMARY KEY,
    why TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE crls (
    authority TEXT NOT NULL,
    shard INTEGER NOT NULL,
    number INTEGER NOT NULL,
    der BLOB NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    PRIMARY KEY (authority, shard)
) STRICT;

-- Every change of state, written with the change; sequence and hash are filled in by the linking job.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    actor TEXT NOT NULL,
    origin TEXT NOT NULL,
    trace TEXT NOT NULL,
    data TEXT NOT NULL,
    sequence INTEGER,
    hash BLOB
) STRICT;
ON POSTGRESQL CREATE INDEX events_unlinked ON events (id) WHERE sequence IS NULL;
CREATE UNIQUE INDEX events_sequence ON events (sequence) WHERE sequence IS NOT NULL;

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT,
    payload TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL,
    lease_node TEXT,
    lease_until_ms INTEGER,
    error TEXT,
    finished INTEGER,
    created INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_due ON jobs (due_ms) WHERE state = 'waiting';
CREATE INDEX jobs_leased ON jobs (lease_until_ms) WHERE state = 'running';
CREATE UNIQUE INDEX jobs_key ON jobs (kind, key) WHERE key IS NOT NULL AND state = 'waiting';

CREATE TABLE acme_accounts (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    thumbprint BLOB NOT NULL,
    jwk TEXT NOT NULL,
    status TEXT NOT NULL,
    contact TEXT NOT NULL,
    terms TEXT,
    credential_id TEXT,
    address TEXT NOT NULL,
    past_thumbprints TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX acme_accounts_key ON acme_accounts (channel, thumbprint);
CREATE INDEX acme_accounts_address ON acme_accounts (channel, address, created);

CREATE TABLE acme_authorizations (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    order_id TEXT,
    identifier_type TEXT NOT NULL,
    identifier_value TEXT NOT NULL,
    wildcard INTEGER NOT NULL,
    status TEXT NOT NULL,
    token TEXT NOT NULL,
    challenges TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Partial, so that what is pending for an order (nearly every row, once) is in none of them.
CREATE INDEX acme_authorizations_valid ON acme_authorizations (account_id, identifier_value, expires)
    WHERE status = 'valid';
CREATE INDEX acme_authorizations_ahead ON acme_authorizations (account_id, identifier_value, expires)
    WHERE status = 'pending' AND order_id IS NULL;
CREATE INDEX acme_authorizations_failed ON acme_authorizations (account_id, id) WHERE status = 'invalid';

-- Status is derived from the authorizations and, once it is set, from the enrolment request.
CREATE TABLE acme_orders (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    profile TEXT NOT NULL,
    identifiers TEXT NOT NULL,
    authorization_ids TEXT NOT NULL,
    not_before INTEGER,
    not_after INTEGER,
    replaces TEXT,
    replaces_certificate INTEGER,
    request_id TEXT,
    error TEXT,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX acme_orders_account ON acme_orders (account_id, id);
CREATE INDEX acme_orders_open ON acme_orders (account_id, expires) WHERE request_id IS NULL AND error IS NULL;
CREATE INDEX acme_orders_replaces ON acme_orders (replaces_certificate) WHERE replaces_certificate IS NOT NULL;
