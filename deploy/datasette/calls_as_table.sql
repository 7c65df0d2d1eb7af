-- Makes the view calls a table, in a copy of the database that nobody writes to: SQLite works the view out anew
-- from all legs for every question, which takes seconds from some ten thousand calls on. Made for
--   sqlite3 cdr-sync.sqlite3 "VACUUM INTO '/srv/datasette/cdr-sync.sqlite3'"
--   sqlite3 /srv/datasette/cdr-sync.sqlite3 < calls_as_table.sql
-- Never run it on the database that cdr-sync works with.
CREATE TEMPORARY TABLE found AS SELECT * FROM calls;
DROP VIEW calls;
CREATE TABLE calls AS SELECT * FROM found;
CREATE UNIQUE INDEX ix_calls_request ON calls (account, request_id);
CREATE INDEX ix_calls_call_time ON calls (call_time);
ANALYZE;
