"""
What differs between OpenBao 2.5, Vault 1.14 and Vault 1.17.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """
    The texts and habits of one product; where nothing is said here, all do the same.

    *mount_type*: answers name the engine. *schedules*: static roles may have a `rotation_schedule`.
    """

    name: str
    product: str
    command: str
    version: str
    plugin_version: str
    service_prefix: str
    service_length: int
    batch_prefix: str
    redirect_status: int
    redirect_text: str
    ping: str
    openbao: bool
    bad_token: str = "permission denied"  # noqa: S105 - an error's text
    mount_type: bool = False
    schedules: bool = False

    def conversion_error(self, value: str, field: str, reason: str) -> str:
        """
        Return the text for a field whose value has the wrong form; only Vault repeats the value.
        """
        shown = "" if self.openbao else f"{value} "
        return f'error converting input {shown}for field "{field}": {reason}'


OPENBAO: Final = Flavor(
    name="openbao",
    product="OpenBao",
    command="bao",
    version="2.5.5",
    plugin_version="v2.5.5+builtin.bao",
    service_prefix="s.",
    service_length=24,
    batch_prefix="b.",
    redirect_status=307,
    redirect_text="Temporary Redirect",
    ping="-- ping",
    openbao=True,
)
VAULT: Final = Flavor(
    name="vault",
    product="Vault",
    command="vault",
    version="1.14.9",
    plugin_version="v1.14.9+builtin.vault",
    service_prefix="hvs.",
    service_length=91,
    batch_prefix="hvb.",
    redirect_status=301,
    redirect_text="Moved Permanently",
    ping=";",
    openbao=False,
)
# Of Vault 1.17 there is no recording: this is 1.14 with what its documentation and its issues say of the differences.
VAULT_1_17: Final = replace(
    VAULT,
    name="vault-1.17",
    version="1.17.6",
    plugin_version="v1.17.6+builtin.vault",
    bad_token="2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",  # noqa: S106 - an error's text
    mount_type=True,
    schedules=True,
)
FLAVORS: Final = {flavor.name: flavor for flavor in (OPENBAO, VAULT, VAULT_1_17)}
