"""
A string that does not show itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HIDDEN = "<secret>"


class Secret:
    """
    A token, a secret_id or the like, which shows itself to nobody who does not ask by `reveal`.

    Error reporters print the local variables of every frame that an exception passed through. So a secret travels
    in this wrapper up to the one call that sends it, and no error ever leaves the frames below that call.
    Immutable, hence safe to share between threads.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """
        Return the string itself.
        """
        return self.__value

    @property
    def sendable(self) -> bool:
        """
        Whether it can stand in a header: not empty, printable, no surrounding space; its shape is Vault's business.
        """
        return self.is_text and self.__value.isprintable() and self.__value == self.__value.strip()

    @property
    def is_text(self) -> bool:
        """
        Whether it is a text, and not empty.
        """
        return isinstance(self.__value, str) and bool(self.__value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__value == other.__value

    def __hash__(self) -> int:
        return hash(self.__value)

    def __repr__(self) -> str:
        return _HIDDEN

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")


def revealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return *body* as it is sent, its secrets in clear.
    """
    return {key: value.reveal() if isinstance(value, Secret) else value for key, value in body.items()}


def censored(text: str, *secrets: object) -> str:
    """
    Return *text* without the *secrets* that whoever wrote it may have repeated.
    """
    for secret in secrets:
        if isinstance(secret, Secret) and secret.reveal():
            text = text.replace(secret.reveal(), _HIDDEN)
    return text
