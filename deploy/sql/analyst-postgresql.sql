-- A role for analysts, which reads views and legs and nothing else. Run it as the owner of the database and of its
-- tables, who has CREATEROLE, or as a superuser:
--
--   psql -X -v ON_ERROR_STOP=1 -v analyst=cdr_analyst -f deploy/sql/analyst-postgresql.sql postgresql://OWNER@HOST/cdr
--
-- Then give it a password with psql's \password cdr_analyst, which sends no plain text. Run this file again after
-- each `cdr-sync db upgrade`: a view that a migration made anew is closed until then. Run twice, it changes nothing.
--
-- Not for analysts are the queue with its tokens (cdr_requests), the raw archive (cdr_responses), the accounts'
-- state (api_accounts) and the ledger with its hosts and errors (sync_runs). Views run with their owner's rights,
-- so that sync_coverage and data_quality count the queue all the same.

\if :{?analyst}
\else
    \set analyst cdr_analyst
\endif

BEGIN;

SELECT format('CREATE ROLE %I LOGIN CONNECTION LIMIT 10', :'analyst')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'analyst') \gexec

SELECT current_database() AS database, relnamespace::regnamespace::text AS schema, relowner::regrole::text AS owner
FROM pg_class WHERE oid = 'call_legs'::regclass \gset

-- Everybody may make temporary tables, and before PostgreSQL 15 tables in the schema `public`: the owner still may.
GRANT CREATE ON SCHEMA :schema TO :owner;
GRANT TEMPORARY ON DATABASE :"database" TO :owner;
REVOKE CREATE ON SCHEMA :schema FROM PUBLIC;
REVOKE TEMPORARY ON DATABASE :"database" FROM PUBLIC;

-- Large objects may be made by everybody, and sorts may fill the disk: only a superuser can change that.
SELECT 'REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC'
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec
SELECT format('ALTER ROLE %I IN DATABASE %I SET temp_file_limit = %L', :'analyst', :'database', '10GB')
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec

REVOKE ALL ON ALL TABLES IN SCHEMA :schema FROM :"analyst";
GRANT CONNECT ON DATABASE :"database" TO :"analyst";
GRANT USAGE ON SCHEMA :schema TO :"analyst";
GRANT SELECT ON calls, calls_daily, destinations, sync_coverage, data_quality, rate_evidence TO :"analyst";
GRANT SELECT ON call_legs TO :"analyst";
-- `cdr-sync export` reads which migration the schema is at before it begins.
GRANT SELECT ON alembic_version TO :"analyst";

-- Defaults, which keep mistakes from doing harm; whoever means it can change them in a session. What holds are the
-- grants above.
ALTER ROLE :"analyst" IN DATABASE :"database" SET search_path = :schema;
ALTER ROLE :"analyst" IN DATABASE :"database" SET default_transaction_read_only = on;
ALTER ROLE :"analyst" IN DATABASE :"database" SET statement_timeout = '5min';
ALTER ROLE :"analyst" IN DATABASE :"database" SET lock_timeout = '5s';
-- A transaction that is left open keeps what was deleted from being cleaned up.
ALTER ROLE :"analyst" IN DATABASE :"database" SET idle_in_transaction_session_timeout = '5min';

COMMIT;
