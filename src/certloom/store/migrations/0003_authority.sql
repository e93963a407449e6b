-- The authority: generations of keys, revocation status by CRL and OCSP, keys that the signer holds.

-- The generation that certificates are issued from: 1, 2 ... ; its certificate and key are in the row as well.
ALTER TABLE authorities ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
ALTER TABLE certificates ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;

-- When a certificate was last revoked, held, released or given another reason: for delta CRLs.
ALTER TABLE certificates ADD COLUMN status_changed INTEGER;
UPDATE certificates SET status_changed = revoked WHERE revoked IS NOT NULL;
-- All that a CRL says of a certificate, in the order in which they expire.
DROP INDEX certificates_revoked;
CREATE INDEX certificates_revoked ON certificates
    (authority, generation, crl_shard, not_after, id, serial, revoked, revocation_reason) WHERE revoked IS NOT NULL;
CREATE INDEX certificates_status_changed ON certificates (authority, generation, crl_shard, status_changed)
    WHERE revoked IS NOT NULL;
-- What has changed lately, whatever to: for OCSP answers that other processes hold.
CREATE INDEX certificates_status_changed_lately ON certificates (status_changed) WHERE status_changed IS NOT NULL;

-- Every generation of every authority. 'next' is not issued from yet, 'past' no more (its CRLs and OCSP answers are
-- still signed), 'retired' signs nothing at all. Without a certificate it waits for one to its CSR.
CREATE TABLE authority_generations (
    authority TEXT NOT NULL,
    generation INTEGER NOT NULL,
    state TEXT NOT NULL,
    issuer TEXT,
    certificate BLOB,
    key_identifier BLOB,
    key_id TEXT,
    csr BLOB,
    body TEXT NOT NULL,
    created INTEGER NOT NULL,
    activated INTEGER,
    ended INTEGER,
    PRIMARY KEY (authority, generation)
) STRICT;
INSERT INTO authority_generations
    (authority, generation, state, issuer, certificate, key_identifier, key_id, csr, body, created, activated, ended)
    SELECT name, 1, 'current', issuer, certificate, key_identifier, key_id, NULL, '{}', created, created, NULL
    FROM authorities;

-- The newest of each: shard -1 is the whole list of a generation that has several shards; delta is 0 or 1.
ALTER TABLE crls RENAME TO crls_before;
CREATE TABLE crls (
    authority TEXT NOT NULL,
    generation INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    delta INTEGER NOT NULL,
    number INTEGER NOT NULL,
    base_number INTEGER,
    der BLOB NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    PRIMARY KEY (authority, generation, shard, delta)
) STRICT;
INSERT INTO crls (authority, generation, shard, delta, number, base_number, der, this_update, next_update)
    SELECT authority, 1, shard, 0, number, NULL, der, this_update, next_update FROM crls_before;
DROP TABLE crls_before;

-- Certificates that left a CRL (holds that were released): delta CRLs say removeFromCRL of them.
CREATE TABLE crl_removals (
    authority TEXT NOT NULL,
    generation INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    serial BLOB NOT NULL,
    removed INTEGER NOT NULL,
    PRIMARY KEY (authority, generation, shard, serial)
) STRICT, WITHOUT ROWID;

-- Delegated OCSP responders (RFC 6960 section 4.2.2.2), of which the newest counts; their keys are with the signer.
CREATE TABLE ocsp_responders (
    authority TEXT NOT NULL,
    generation INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    certificate BLOB NOT NULL,
    not_after INTEGER NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (authority, generation, key_id)
) STRICT;
