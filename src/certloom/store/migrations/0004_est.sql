-- EST (RFC 7030), and what other protocols with client certificates share with it.

-- Sets of CA certificates of strangers (manufacturers, partners), whose clients channels may let in. The body is JSON.
CREATE TABLE trust_anchors (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;

-- Registration authorities: who signs (and decrypts) protocol messages in an authority's name. The newest of each purpose
-- counts; their keys are with the signer.
CREATE TABLE ra_certificates (
    authority TEXT NOT NULL,
    purpose TEXT NOT NULL,
    key_id TEXT NOT NULL,
    certificate BLOB NOT NULL,
    not_after INTEGER NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (authority, purpose, key_id)
) STRICT;

-- What a client asked for and may ask for again: by a hash of channel, requester, operation, public key, subject and names.
CREATE TABLE est_transactions (
    key BLOB PRIMARY KEY,
    request_id TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX est_transactions_created ON est_transactions (created);
