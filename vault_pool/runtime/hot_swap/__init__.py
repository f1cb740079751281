"""
Pools that are replaced while they are in use. The only home of psycopg_pool, but for the bases of our errors.

* `holder` — `HotSwapPool`, what the application holds.
* `generation` — a pool bound to one credential, with an exact count of its connections.
* `tracking` — connections that know their generation and are returned once.
* `budget` — how many connections all generations together may hold.
* `reaper` — the thread that lets retired generations finish.
"""

from vault_pool.runtime.hot_swap.generation import Blueprint, Generation
from vault_pool.runtime.hot_swap.holder import HotSwapPool

__all__ = ["Blueprint", "Generation", "HotSwapPool"]
