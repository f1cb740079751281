"""
``python -m vault_pool``: the command `vault-pool`.
"""

from vault_pool.cli import main

if __name__ == "__main__":
    main(prog_name="vault-pool")
