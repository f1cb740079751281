# Run once by the image of PostgreSQL, as the superuser: the database, the group that owns the application's rights, and
# the administrator that Vault logs in as. It is no superuser: it may create roles, and hand out membership in the group.
# From PostgreSQL 16 on CREATEROLE alone does not entitle to the latter: hence ADMIN OPTION.
psql -v ON_ERROR_STOP=1 -v password="$VAULT_ADMIN_PASSWORD" -U "${POSTGRES_USER:-postgres}" -d postgres <<'SQL'
CREATE ROLE vault_admin LOGIN CREATEROLE PASSWORD :'password';
CREATE ROLE app_rw;
GRANT app_rw TO vault_admin WITH ADMIN OPTION;
CREATE DATABASE shop OWNER vault_admin ENCODING 'UTF8' TEMPLATE template0;
\connect shop
CREATE TABLE items (id int PRIMARY KEY, sold int NOT NULL DEFAULT 0);
INSERT INTO items (id) SELECT generate_series(1, 1000);
GRANT SELECT, UPDATE ON items TO app_rw;
SQL
