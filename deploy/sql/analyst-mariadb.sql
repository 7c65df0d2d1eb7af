-- A user for analysts, which reads views and legs and nothing else. Run it as a user who may create users and grant
-- what is granted here; for another name, replace cdr_analyst in this file, and '%' for other hosts:
--
--   mariadb --host=HOST --user=OWNER --database=cdr < deploy/sql/analyst-mariadb.sql
--
-- The user is locked until it has a password: ALTER USER cdr_analyst@'%' IDENTIFIED BY '…' ACCOUNT UNLOCK. Run this
-- file again after each `cdr-sync db upgrade`, since a new view is closed until then. Run twice, it changes nothing.
--
-- Not for analysts are the queue with its tokens (cdr_requests), the raw archive (cdr_responses), the accounts'
-- state (api_accounts) and the ledger with its hosts and errors (sync_runs). Views run with the rights of the user
-- that ran the migrations (SQL SECURITY DEFINER), which therefore must stay, so that sync_coverage and data_quality
-- count the queue all the same.

CREATE USER IF NOT EXISTS cdr_analyst@'%' ACCOUNT LOCK;
-- MAX_STATEMENT_TIME is in seconds; MySQL, to which this is a comment, has no such limit of a user.
ALTER USER cdr_analyst@'%' WITH MAX_USER_CONNECTIONS 10 /*M! MAX_STATEMENT_TIME 300 */;

REVOKE ALL PRIVILEGES, GRANT OPTION FROM cdr_analyst@'%';
GRANT SELECT ON calls TO cdr_analyst@'%';
GRANT SELECT ON calls_daily TO cdr_analyst@'%';
GRANT SELECT ON destinations TO cdr_analyst@'%';
GRANT SELECT ON sync_coverage TO cdr_analyst@'%';
GRANT SELECT ON data_quality TO cdr_analyst@'%';
GRANT SELECT ON rate_evidence TO cdr_analyst@'%';
GRANT SELECT ON call_legs TO cdr_analyst@'%';
-- `cdr-sync export` reads which migration the schema is at before it begins.
GRANT SELECT ON alembic_version TO cdr_analyst@'%';
