"""
multiprocessing with a pool that was opened before: forked children open their own, spawned ones make their own.

    python multiprocessing_workers.py fork|forkserver|spawn
"""

import multiprocessing
import os
import sys

from vault_pool import VaultPool

# Where it is, and how to come by a credential, is in the environment: VAULT_POOL_CONNINFO, VAULT_POOL_ROLE, VAULT_ADDR.
pool = VaultPool.from_env(min_size=1, max_size=2)


def whoami(_number: int) -> tuple[int, int, str]:
    """
    Tell which process and which session do this, and as whom.
    """
    pool.open(wait=False)
    with pool.connection() as conn:
        row = conn.execute("SELECT pg_backend_pid(), session_user").fetchone()
    return os.getpid(), row[0], row[1]


def main(method: str) -> None:
    """
    Ask in this process, in two children, and in this process again.
    """
    context = multiprocessing.get_context(method)
    with pool:
        print(*whoami(0))
        with context.Pool(2) as workers:
            for told in workers.map(whoami, range(8), chunksize=1):
                print(*told)
            # Not `terminate`, which the end of the block is: children that end by themselves end their leases.
            workers.close()
            workers.join()
        print(*whoami(0))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "fork")
