"""Figures of vault_pool, each beside psycopg_pool's own pool in the same run: `make bench`."""
