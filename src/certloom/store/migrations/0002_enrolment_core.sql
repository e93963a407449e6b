-- One enrolment core: people, roles, approvals, policy rules, notifications, and an inventory that can be searched.

-- A certificate's names are in its row as well, as a JSON list of "type:value", so that a listing needs no join.
ALTER TABLE certificates ADD COLUMN names TEXT NOT NULL DEFAULT '[]';
-- P-256, rsa-2048, ed25519 ...
ALTER TABLE certificates ADD COLUMN key_type TEXT NOT NULL DEFAULT '';
-- SHA-256 of the DER.
ALTER TABLE certificates ADD COLUMN fingerprint BLOB;
-- The person or service on whose behalf it was asked for, and the team it belongs to.
ALTER TABLE certificates ADD COLUMN owner TEXT;
ALTER TABLE certificates ADD COLUMN team TEXT;
-- The channel it was asked for on, as protocol/name.
ALTER TABLE certificates ADD COLUMN channel TEXT NOT NULL DEFAULT '';
UPDATE certificates SET channel = coalesce(
    (SELECT r.protocol || '/' || r.channel FROM enrolment_requests r WHERE r.id = certificates.request_id), '');

-- Listings are in the order of issued or of not_after, then of id. SQLite's indexes end in the id by themselves.
CREATE INDEX certificates_fingerprint ON certificates (fingerprint);
ON SQLITE CREATE INDEX certificates_issued ON certificates (issued);
ON SQLITE CREATE INDEX certificates_profile ON certificates (profile, issued);
ON SQLITE CREATE INDEX certificates_authority ON certificates (authority, issued);
ON SQLITE CREATE INDEX certificates_requester ON certificates (requester, issued);
ON SQLITE CREATE INDEX certificates_owner ON certificates (owner, issued) WHERE owner IS NOT NULL;
ON SQLITE CREATE INDEX certificates_team ON certificates (team, issued) WHERE team IS NOT NULL;
ON SQLITE CREATE INDEX certificates_revocations ON certificates (issued) WHERE revoked IS NOT NULL;
ON SQLITE CREATE INDEX certificates_held ON certificates (issued) WHERE revocation_reason = 6;
ON SQLITE CREATE INDEX certificates_to_replace ON certificates (issued) WHERE replace_since IS NOT NULL;
ON POSTGRESQL CREATE INDEX certificates_issued ON certificates (issued, id);
ON POSTGRESQL CREATE INDEX certificates_profile ON certificates (profile, issued, id);
ON POSTGRESQL CREATE INDEX certificates_authority ON certificates (authority, issued, id);
ON POSTGRESQL CREATE INDEX certificates_requester ON certificates (requester, issued, id);
ON POSTGRESQL CREATE INDEX certificates_owner ON certificates (owner, issued, id) WHERE owner IS NOT NULL;
ON POSTGRESQL CREATE INDEX certificates_team ON certificates (team, issued, id) WHERE team IS NOT NULL;
ON POSTGRESQL CREATE INDEX certificates_revocations ON certificates (issued, id) WHERE revoked IS NOT NULL;
ON POSTGRESQL CREATE INDEX certificates_held ON certificates (issued, id) WHERE revocation_reason = 6;
ON POSTGRESQL CREATE INDEX certificates_to_replace ON certificates (issued, id) WHERE replace_since IS NOT NULL;
ON POSTGRESQL DROP INDEX certificates_not_after;
ON POSTGRESQL CREATE INDEX certificates_not_after ON certificates (not_after, id);

-- Those that count for the metrics of expiry; nothing but the index is read for them.
CREATE INDEX certificates_current ON certificates (not_after) WHERE revoked IS NULL AND replaced_by IS NULL;

-- By ``key``: the name itself, or of a DNS name its labels turned round, each with a dot behind it
-- (``com.example.www.``), so that everything under a domain stands together. Filled anew by ``backfill``.
DROP TABLE certificate_names;
CREATE TABLE certificate_names (
    key TEXT NOT NULL,
    certificate_id INTEGER NOT NULL,
    PRIMARY KEY (key, certificate_id)
) STRICT, WITHOUT ROWID;

ALTER TABLE enrolment_requests ADD COLUMN owner TEXT;
ALTER TABLE enrolment_requests ADD COLUMN team TEXT;
ALTER TABLE enrolment_requests ADD COLUMN approval_id TEXT;
CREATE INDEX enrolment_requests_state ON enrolment_requests (state, id) WHERE state <> 'issued';
CREATE INDEX enrolment_requests_owner ON enrolment_requests (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX enrolment_requests_team ON enrolment_requests (team, id) WHERE team IS NOT NULL;
CREATE INDEX enrolment_requests_approval ON enrolment_requests (approval_id, id) WHERE approval_id IS NOT NULL;
-- Of these an owner, or a requester who has none, may have only so many.
CREATE INDEX enrolment_requests_waiting ON enrolment_requests (requester, id) WHERE state = 'awaiting_approval';
CREATE INDEX enrolment_requests_waiting_of ON enrolment_requests (owner, id)
    WHERE state = 'awaiting_approval' AND owner IS NOT NULL;

-- What people are asked to agree to. It binds a requester, names, a profile and its limits (the binding is a hash
-- over them), not one request: requests for the same join it, and while it is granted further ones need no other.
CREATE TABLE approvals (
    id TEXT PRIMARY KEY,
    binding BLOB NOT NULL,
    state TEXT NOT NULL,
    protocol TEXT NOT NULL,
    channel TEXT NOT NULL,
    requester TEXT NOT NULL,
    owner TEXT,
    team TEXT,
    profile TEXT NOT NULL,
    profile_version INTEGER NOT NULL,
    names TEXT NOT NULL,
    asked TEXT NOT NULL,
    stages TEXT NOT NULL,
    stage INTEGER NOT NULL,
    decisions TEXT NOT NULL,
    changes TEXT NOT NULL,
    reasons TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    good_seconds INTEGER NOT NULL,
    good_until INTEGER
) STRICT;
CREATE UNIQUE INDEX approvals_binding ON approvals (binding) WHERE state IN ('waiting', 'granted');
CREATE INDEX approvals_state ON approvals (state, id);
CREATE INDEX approvals_expires ON approvals (expires) WHERE state = 'waiting';
CREATE INDEX approvals_good_until ON approvals (good_until) WHERE state = 'granted';
CREATE INDEX approvals_requester ON approvals (requester, created);
CREATE INDEX approvals_made_for ON approvals (owner, created) WHERE owner IS NOT NULL;
CREATE INDEX approvals_owner ON approvals (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX approvals_team ON approvals (team, id) WHERE team IS NOT NULL;
CREATE INDEX approvals_ended ON approvals (updated) WHERE state IN ('denied', 'expired', 'withdrawn', 'lapsed');

-- Keys that were made here for a requester, sealed, until they are fetched or their time is up.
CREATE TABLE request_keys (
    request_id TEXT PRIMARY KEY,
    certificate_id INTEGER,
    sealed BLOB NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;
CREATE INDEX request_keys_certificate ON request_keys (certificate_id) WHERE certificate_id IS NOT NULL;
CREATE INDEX request_keys_expires ON request_keys (expires);

-- Each version of a policy rule, as with profiles; the newest counts.
CREATE TABLE rules (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    created INTEGER NOT NULL,
    author TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

ALTER TABLE credentials ADD COLUMN label TEXT NOT NULL DEFAULT '';
-- The person (or, for a service, any text) for whom it stands: what it asks for is theirs.
ALTER TABLE credentials ADD COLUMN owner TEXT;
ALTER TABLE credentials ADD COLUMN team TEXT;
-- Profiles it may be used for, as a JSON list; none means those of its channel.
ALTER TABLE credentials ADD COLUMN profiles TEXT NOT NULL DEFAULT '[]';
-- For API tokens and client certificates: the roles they act in, as a JSON list of grants.
ALTER TABLE credentials ADD COLUMN grants TEXT NOT NULL DEFAULT '[]';
ALTER TABLE credentials ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
-- After a rotation the secret before stays good for a while.
ALTER TABLE credentials ADD COLUMN previous_hash BLOB;
ALTER TABLE credentials ADD COLUMN previous_sealed BLOB;
ALTER TABLE credentials ADD COLUMN previous_until INTEGER;
ALTER TABLE credentials ADD COLUMN rotated INTEGER;
ALTER TABLE credentials ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
CREATE INDEX credentials_previous_hash ON credentials (previous_hash) WHERE previous_hash IS NOT NULL;
CREATE INDEX credentials_kind ON credentials (kind, id);
-- For client certificates: whose key it is (SHA-256 of the SPKI), or the profile and name of certificates issued here.
ALTER TABLE credentials ADD COLUMN spki_sha256 BLOB;
ALTER TABLE credentials ADD COLUMN subject_profile TEXT;
ALTER TABLE credentials ADD COLUMN subject_name TEXT;
CREATE INDEX credentials_owner ON credentials (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX credentials_team ON credentials (team, id) WHERE team IS NOT NULL;
CREATE INDEX credentials_spki ON credentials (spki_sha256) WHERE spki_sha256 IS NOT NULL;
CREATE INDEX credentials_subject ON credentials (subject_name, subject_profile) WHERE subject_name IS NOT NULL;
CREATE INDEX credentials_grants ON credentials (id) WHERE grants <> '[]';

CREATE TABLE teams (
    name TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT;

-- Custom roles; the built-in ones are in the code.
CREATE TABLE roles (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE people (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    display TEXT NOT NULL,
    email TEXT NOT NULL,
    state TEXT NOT NULL,
    password_hash TEXT,
    oidc_issuer TEXT,
    oidc_subject TEXT,
    teams TEXT NOT NULL,
    grants TEXT NOT NULL,
    -- What the identity provider said at the last login; set anew at each.
    oidc_teams TEXT NOT NULL,
    oidc_grants TEXT NOT NULL,
    -- SHA-256 of the one-time code with which a password may be set.
    setup_hash BLOB,
    setup_expires INTEGER,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    last_login INTEGER
) STRICT;
CREATE UNIQUE INDEX people_name ON people (name);
CREATE UNIQUE INDEX people_setup ON people (setup_hash) WHERE setup_hash IS NOT NULL;
CREATE UNIQUE INDEX people_oidc ON people (oidc_issuer, oidc_subject) WHERE oidc_subject IS NOT NULL;

CREATE TABLE sessions (
    secret_hash BLOB PRIMARY KEY,
    person_id TEXT NOT NULL,
    created INTEGER NOT NULL,
    last_used INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_person ON sessions (person_id);
CREATE INDEX sessions_expires ON sessions (expires);

-- Answers to requests that carried an Idempotency-Key, sealed, since some show a secret once.
CREATE TABLE idempotency (
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status INTEGER NOT NULL,
    answer BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (principal, key)
) STRICT;
CREATE INDEX idempotency_created ON idempotency (created);

CREATE TABLE webhooks (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    secret_sealed BLOB NOT NULL,
    -- After a rotation what is sent is signed with the secret before as well, for a while.
    previous_sealed BLOB,
    previous_until INTEGER,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    last_success INTEGER,
    last_failure INTEGER,
    last_error TEXT
) STRICT;

-- Emails and webhook messages on their way, and what became of them. A target ('mail', 'webhook/NAME') is told of
-- one source ('approval/ID/0/PERSON', 'event/SEQUENCE') once.
CREATE TABLE notices (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    recipient TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    created INTEGER NOT NULL,
    finished INTEGER,
    status INTEGER,
    error TEXT
) STRICT;
CREATE UNIQUE INDEX notices_source ON notices (target, source);
CREATE INDEX notices_due ON notices (target, due_ms) WHERE state = 'waiting';
CREATE INDEX notices_target ON notices (target, id);
CREATE INDEX notices_finished ON notices (finished) WHERE finished IS NOT NULL;

CREATE TABLE audit_checkpoints (
    sequence INTEGER NOT NULL PRIMARY KEY,
    hash BLOB NOT NULL,
    base INTEGER NOT NULL,
    at INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    signature BLOB NOT NULL
) STRICT;

-- Without the kinds that ACME's issuing writes: they are so many that walking the log finds them as well.
CREATE INDEX events_kind ON events (kind, id)
    WHERE kind NOT IN ('acme-order.created', 'acme-authorization.valid', 'certificate.issued');
CREATE INDEX events_subject ON events (subject, id);
CREATE INDEX events_actor ON events (actor, id);
CREATE INDEX jobs_state ON jobs (state, id);
