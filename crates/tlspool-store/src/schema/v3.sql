-- Which peers may meet which of our names: see authorization.rs. `remote` is a selector, '*' (any peer, with
-- or without a name) or '' (a peer without a name); `local` is a selector or '*'. `roles` are our roles.
CREATE TABLE authorization_v3 (
    id       INTEGER PRIMARY KEY,
    effect   TEXT    NOT NULL CHECK (effect IN ('allow', 'deny')),
    remote   TEXT    NOT NULL,
    local    TEXT    NOT NULL DEFAULT '*',
    service  TEXT    NOT NULL DEFAULT '',      -- empty: any service
    roles    INTEGER NOT NULL DEFAULT 3 CHECK (roles BETWEEN 1 AND 3),
    position INTEGER NOT NULL DEFAULT 100,     -- the lowest decides
    comment  TEXT    NOT NULL DEFAULT '',
    created  INTEGER NOT NULL DEFAULT (unixepoch())
);
INSERT INTO authorization_v3 (id, effect, remote, local, service, position, created)
    SELECT id, effect, remote, local, service, position, created FROM authorization;
DROP TABLE authorization;
ALTER TABLE authorization_v3 RENAME TO authorization;
CREATE UNIQUE INDEX authorization_remote ON authorization (remote, local, service, roles);
