"""
`sys/`: the engine through which the server itself is ruled; its parts live in modules of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from vault_pool.devserver.framework import Route
from vault_pool.devserver.system_leases import LeasePaths
from vault_pool.devserver.system_mounts import MountPaths
from vault_pool.devserver.system_policies import PolicyPaths

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core


class SystemEngine:
    """
    The paths below `sys/` that need a token; health and sealing are answered before (`front.py`).
    """

    kind: Final = "system"
    # vault: it looks at the token itself.
    open_paths: Final[Sequence[str]] = ("internal/ui/mounts/*",)
    # vault: the paths of ``logical_system.go`` that need the sudo capability, as far as they exist here.
    sudo_paths: Final[Sequence[str]] = (
        "auth/*",
        "leases",
        "leases/lookup/*",
        "leases/revoke-force/*",
        "leases/revoke-prefix/*",
        "leases/tidy",
        "locked-users/*",
        "revoke-force/*",
        "revoke-prefix/*",
        "seal",
        "step-down",
    )

    def __init__(self, core: Core) -> None:
        self.routes: Sequence[Route] = (
            *LeasePaths(core).routes,
            *MountPaths(core).routes,
            *PolicyPaths(core).routes,
            *core.namespaces.routes,
            *core.quotas.routes,
            Route(pattern="seal", operations={"update": lambda _request, _fields: core.seal()}),
            Route(pattern="step-down", operations={"update": lambda _request, _fields: None}),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """
