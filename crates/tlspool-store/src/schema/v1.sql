-- Names and selectors are stored in their canonical text (A-labels, lower case).
-- Roles are bits: 1 client, 2 server. Times are seconds since 1970.

CREATE TABLE local_identity (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL,
    roles           INTEGER NOT NULL CHECK (roles BETWEEN 1 AND 3),
    kind            TEXT    NOT NULL CHECK (kind IN ('x509', 'openpgp')),
    certificate     BLOB,               -- DER certificates one after the other, leaf first
    certificate_uri TEXT,               -- or where they are: file: or pkcs11:
    key_uri         TEXT    NOT NULL,   -- pkcs11: (RFC 7512) or file:
    fingerprint     BLOB    NOT NULL DEFAULT x'',  -- SHA-256 of an inline leaf
    preference      INTEGER NOT NULL DEFAULT 100,  -- the lowest is offered first
    is_default      INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    created         INTEGER NOT NULL DEFAULT (unixepoch()),
    CHECK ((certificate IS NULL) <> (certificate_uri IS NULL))
);
CREATE UNIQUE INDEX local_identity_name
    ON local_identity (name, kind, key_uri, fingerprint, ifnull(certificate_uri, ''));
CREATE INDEX local_identity_default ON local_identity (is_default) WHERE is_default = 1;

-- Which local user, group or program may use which local names. The first selector in a name's
-- look-up order that has any row decides.
CREATE TABLE access (
    id           INTEGER PRIMARY KEY,
    selector     TEXT    NOT NULL,
    subject      TEXT    NOT NULL CHECK (subject IN ('user', 'group', 'anyone')),
    subject_id   INTEGER NOT NULL,      -- uid or gid; -1 for anyone
    program      TEXT    NOT NULL DEFAULT '',  -- path of the executable; empty: any
    created      INTEGER NOT NULL DEFAULT (unixepoch()),
    CHECK ((subject = 'anyone') = (subject_id = -1))
);
CREATE UNIQUE INDEX access_selector ON access (selector, subject, subject_id, program);
CREATE INDEX access_subject ON access (subject, subject_id, selector);

CREATE TABLE trust_anchor (
    id          INTEGER PRIMARY KEY,
    kind        TEXT    NOT NULL CHECK (kind IN ('x509', 'openpgp')),
    service     TEXT    NOT NULL DEFAULT '',   -- empty: all services
    certificate BLOB    NOT NULL,
    fingerprint BLOB    NOT NULL,              -- SHA-256
    label       TEXT    NOT NULL DEFAULT '',   -- the subject, for people
    created     INTEGER NOT NULL DEFAULT (unixepoch())
);
CREATE UNIQUE INDEX trust_anchor_service ON trust_anchor (service, kind, fingerprint);

-- Remote selector to the ordered local names that a client may show there.
CREATE TABLE disclosure (
    id         INTEGER PRIMARY KEY,
    remote     TEXT    NOT NULL,
    position   INTEGER NOT NULL,
    local_name TEXT    NOT NULL,
    created    INTEGER NOT NULL DEFAULT (unixepoch())
);
CREATE UNIQUE INDEX disclosure_remote ON disclosure (remote, position);

CREATE TABLE pin (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('x509', 'openpgp')),
    fingerprint BLOB    NOT NULL,              -- SHA-256
    expires     INTEGER,                       -- NULL: never
    created     INTEGER NOT NULL DEFAULT (unixepoch())
);
CREATE UNIQUE INDEX pin_name ON pin (name, kind, fingerprint);

CREATE TABLE policy (
    id         INTEGER PRIMARY KEY,
    side       TEXT    NOT NULL CHECK (side IN ('remote', 'local')),
    selector   TEXT    NOT NULL,
    service    TEXT    NOT NULL DEFAULT '',    -- empty: any service
    expression TEXT    NOT NULL,
    created    INTEGER NOT NULL DEFAULT (unixepoch())
);
CREATE UNIQUE INDEX policy_selector ON policy (side, selector, service);

CREATE TABLE authorization (
    id       INTEGER PRIMARY KEY,
    remote   TEXT    NOT NULL,
    local    TEXT    NOT NULL,
    service  TEXT    NOT NULL DEFAULT '',      -- empty: any service
    position INTEGER NOT NULL DEFAULT 100,
    effect   TEXT    NOT NULL CHECK (effect IN ('allow', 'deny')),
    created  INTEGER NOT NULL DEFAULT (unixepoch())
);
CREATE UNIQUE INDEX authorization_remote ON authorization (remote, local, service);
