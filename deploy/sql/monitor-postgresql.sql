-- A role for monitoring, such as Grafana's dashboard of the job's health. It reads queue, runs and breakers, but no
-- tokens and no phone numbers. Run this file as a superuser, or as the owner of the database and its tables with
-- CREATEROLE:
--
--   psql -X -v ON_ERROR_STOP=1 -v monitor=cdr_monitor -f deploy/sql/monitor-postgresql.sql postgresql://OWNER@HOST/cdr
--
-- Then set a password with psql's \password cdr_monitor, which sends no plain text. Run this file again after each
-- `cdr-sync db upgrade`. It is safe to repeat.

\if :{?monitor}
\else
    \set monitor cdr_monitor
\endif

BEGIN;

SELECT format('CREATE ROLE %I LOGIN CONNECTION LIMIT 10', :'monitor')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'monitor') \gexec

SELECT current_database() AS database, relnamespace::regnamespace::text AS schema, relowner::regrole::text AS owner
FROM pg_class WHERE oid = 'call_legs'::regclass \gset

-- By default every role may create temporary tables, and before PostgreSQL 15 tables in the schema `public`. Only the
-- owner keeps these rights.
GRANT CREATE ON SCHEMA :schema TO :owner;
GRANT TEMPORARY ON DATABASE :"database" TO :owner;
REVOKE CREATE ON SCHEMA :schema FROM PUBLIC;
REVOKE TEMPORARY ON DATABASE :"database" FROM PUBLIC;

-- By default every role may create large objects, and its sorts may fill the disk. Only a superuser can change that.
SELECT 'REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC'
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec
SELECT format('ALTER ROLE %I IN DATABASE %I SET temp_file_limit = %L', :'monitor', :'database', '10GB')
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec

REVOKE ALL ON ALL TABLES IN SCHEMA :schema FROM :"monitor";
GRANT CONNECT ON DATABASE :"database" TO :"monitor";
GRANT USAGE ON SCHEMA :schema TO :"monitor";
GRANT SELECT ON sync_coverage, sync_runs TO :"monitor";
GRANT SELECT (account, state, run_after, lease_until, last_error_kind) ON cdr_requests TO :"monitor";
GRANT SELECT (account, breaker_opened_at, breaker_reason, paused_until) ON api_accounts TO :"monitor";
GRANT SELECT (account, request_id, call_time) ON call_legs TO :"monitor";
GRANT SELECT (account, request_id, check_name) ON data_quality TO :"monitor";

ALTER ROLE :"monitor" IN DATABASE :"database" SET search_path = :schema;
ALTER ROLE :"monitor" IN DATABASE :"database" SET default_transaction_read_only = on;
ALTER ROLE :"monitor" IN DATABASE :"database" SET statement_timeout = '1min';
ALTER ROLE :"monitor" IN DATABASE :"database" SET idle_in_transaction_session_timeout = '1min';

COMMIT;
