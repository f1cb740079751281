"""
Pools that are replaced while they are in use. The only home of psycopg_pool, but for the bases of our errors.

* `holder` — `HotSwapPool`, what the application holds; `checkout` — one use of a connection by it;
  `surface` — the rest of psycopg_pool's names.
* `generation` — a pool bound to one credential, with an exact count of its connections; `blueprint` builds it.
* `vouching` — what a generation does while it is doubted whether its role still exists; `doubt` — its words.
* `proof`, `assumed` — whose a session is, and as whom it acts.
* `tracking` — connections that know their generation, tell it of trouble, and are returned once.
* `reconnection`, `inheritance` — sessions that PostgreSQL has ended, and those of the parent in a child of fork.
* `budget` — how many connections all generations together may hold.
* `reaper` — the thread that lets retired generations finish; `ending` — how it ends a session that is lent out.
"""

from vault_pool.runtime.hot_swap.blueprint import Blueprint
from vault_pool.runtime.hot_swap.generation import Generation
from vault_pool.runtime.hot_swap.holder import HotSwapPool

__all__ = ["Blueprint", "Generation", "HotSwapPool"]
