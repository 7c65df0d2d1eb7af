-- A user for analysts, which reads only views and legs. Run this file as a user who may create users and grant these
-- rights. For another name, replace cdr_analyst in this file; for other hosts, replace '%':
--
--   mariadb --host=HOST --user=OWNER --database=cdr < deploy/sql/analyst-mariadb.sql
--
-- The user is locked until it has a password: ALTER USER cdr_analyst@'%' IDENTIFIED BY '…' ACCOUNT UNLOCK. Run this
-- file again after each `cdr-sync db upgrade`: until then, the user cannot read new views. It is safe to repeat.
--
-- Analysts cannot read the queue with its tokens (cdr_requests), the raw archive (cdr_responses), the accounts' state
-- (api_accounts) or the ledger with its hosts and errors (sync_runs). Views run with the rights of the user that ran
-- the migrations (SQL SECURITY DEFINER), so sync_coverage and data_quality still count the queue. Keep that user.

CREATE USER IF NOT EXISTS cdr_analyst@'%' ACCOUNT LOCK;
-- MAX_STATEMENT_TIME is in seconds. MySQL has no such limit for a user, and reads this as a comment.
ALTER USER cdr_analyst@'%' WITH MAX_USER_CONNECTIONS 10 /*M! MAX_STATEMENT_TIME 300 */;

REVOKE ALL PRIVILEGES, GRANT OPTION FROM cdr_analyst@'%';
GRANT SELECT ON calls TO cdr_analyst@'%';
GRANT SELECT ON calls_daily TO cdr_analyst@'%';
GRANT SELECT ON destinations TO cdr_analyst@'%';
GRANT SELECT ON sync_coverage TO cdr_analyst@'%';
GRANT SELECT ON data_quality TO cdr_analyst@'%';
GRANT SELECT ON rate_evidence TO cdr_analyst@'%';
GRANT SELECT ON call_legs TO cdr_analyst@'%';
-- `cdr-sync export` checks the revision of the schema first.
GRANT SELECT ON alembic_version TO cdr_analyst@'%';
