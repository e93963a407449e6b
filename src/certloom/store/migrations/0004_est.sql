-- EST (RFC 7030), and what other protocols with client certificates share with it.

-- Sets of CA certificates of strangers (manufacturers, partners), whose clients channels may let in. The body is JSON.
CREATE TABLE trust_anchors (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL
) STRICT;

-- Not only OCSP responders sign in an authority's name: also who signs the messages of protocols.
ALTER TABLE ocsp_responders RENAME TO delegates;
ALTER TABLE delegates ADD COLUMN purpose TEXT NOT NULL DEFAULT 'ocsp';

-- What a client asked for and may ask for again: by a hash of channel, requester, operation, public key, subject and names.
CREATE TABLE est_transactions (
    key BLOB PRIMARY KEY,
    request_id TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX est_transactions_created ON est_transactions (created);
