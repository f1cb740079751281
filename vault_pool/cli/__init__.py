"""
The command `vault-pool`.
"""

from __future__ import annotations

import sys

try:
    from vault_pool.cli.group import main as main
except ModuleNotFoundError as missing:
    if missing.name != "click":
        raise

    def main() -> None:  # type: ignore[misc] # stands in for the group
        """
        Say what is missing; exit with 2.
        """
        print("vault-pool: click is not installed: pip install 'vault_pool[cli]'", file=sys.stderr)
        sys.exit(2)
