#!/bin/sh
# Run once against a fresh Vault or OpenBao: vault.sh vault|bao NAME. All that the application may do afterwards is in its
# policy; what it needs to log in lies in /run/vault, for its user alone.
set -eu
cli=$1 name=$2
umask 077
export BAO_ADDR="$VAULT_ADDR" BAO_TOKEN="$VAULT_TOKEN"

$cli secrets enable database || true # again, after a restart of this service alone
$cli write "database/config/shop" \
    plugin_name=postgresql-database-plugin \
    allowed_roles=shop \
    connection_url='postgresql://{{username}}:{{password}}@postgres:5432/shop?sslmode=disable' \
    username=vault_admin \
    password="$VAULT_ADMIN_PASSWORD"
$cli write database/roles/shop \
    db_name=shop \
    default_ttl="$LEASE_TTL" max_ttl="$LEASE_MAX_TTL" \
    creation_statements="CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_rw;" \
    revocation_statements='DROP ROLE IF EXISTS "{{name}}";' # its rights are the group's: there is nothing to revoke first

$cli policy write shop - <<'HCL'
path "database/creds/shop" { capabilities = ["read"] }
path "sys/leases/revoke"   { capabilities = ["update"] }
HCL

$cli auth enable approle || true
$cli write auth/approle/role/shop token_policies=shop token_ttl=1h token_max_ttl=24h
$cli write auth/approle/role/shop/role-id role_id=shop
$cli write -f -field=secret_id auth/approle/role/shop/secret-id > /run/vault/secret_id
chown 10001:10001 /run/vault /run/vault/secret_id
echo "$name is ready: the application logs in by AppRole"
