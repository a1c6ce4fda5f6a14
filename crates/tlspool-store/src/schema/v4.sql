-- A row of `disclosure` may be for the programs of one user only (-1: everyone's), and an empty local name
-- means that nobody is shown there. Positions order the names of one selector and user.
ALTER TABLE disclosure ADD COLUMN uid INTEGER NOT NULL DEFAULT -1;
DROP INDEX disclosure_remote;
DELETE FROM disclosure
    WHERE id NOT IN (SELECT min(id) FROM disclosure GROUP BY remote, local_name);
CREATE UNIQUE INDEX disclosure_name ON disclosure (remote, uid, local_name);
CREATE INDEX disclosure_uid ON disclosure (uid);
