"""
Names for database roles, from Go templates.

vault: ``sdk/helper/template``; functions and pipes, no control structures.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from vault_pool.devserver.errors import BackendError
from vault_pool.devserver.values import base62

DEFAULT: Final = (
    '{{ printf "v-%s-%s-%s-%s" (.DisplayName | truncate 8) (.RoleName | truncate 8) (random 20) (unix_time) '
    "| truncate 63 }}"
)
_TOKEN: Final = re.compile(r'\s*("(?:\\.|[^"\\])*"|[()|]|\.?\w+)')


def _printf(form: str, *values: Any) -> str:
    return form % tuple(str(value) for value in values)


_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "lowercase": lambda text: str(text).lower(),
    "printf": _printf,
    "random": lambda length: base62(int(length)),
    "replace": lambda old, new, text: str(text).replace(old, new),
    "truncate": lambda length, text: str(text)[: int(length)],
    "unix_time": lambda: str(int(time.time())),
    "unix_time_millis": lambda: str(int(time.time() * 1000)),
    "uppercase": lambda text: str(text).upper(),
    "uuid": lambda: str(uuid.uuid4()),
}


def generate(template: str, display_name: str, role_name: str) -> str:
    """
    Return a new name; raise BackendError if *template* cannot be understood.
    """
    data = {".DisplayName": display_name, ".RoleName": role_name}
    return re.sub(r"{{-?\s*(.*?)\s*-?}}", lambda match: str(_Expression(match[1], data).value()), template)


class _Expression:
    def __init__(self, text: str, data: Mapping[str, str]) -> None:
        self._tokens = _TOKEN.findall(text)
        self._data = data

    def value(self) -> Any:
        """
        Evaluate a pipeline: each command gets the result of the one before as its last argument.
        """
        result = self._command(())
        while self._tokens and self._tokens[0] == "|":
            self._tokens.pop(0)
            result = self._command((result,))
        return result

    def _command(self, piped: tuple[Any, ...]) -> Any:
        head = self._tokens.pop(0)
        if head not in _FUNCTIONS:
            self._tokens.insert(0, head)
            return self._operand()
        arguments = []
        while self._tokens and self._tokens[0] not in {"|", ")"}:
            arguments.append(self._operand())
        return _FUNCTIONS[head](*arguments, *piped)

    def _operand(self) -> Any:
        word = self._tokens.pop(0)
        if word == "(":
            value = self.value()
            self._tokens.pop(0)
            return value
        if word.startswith('"'):
            return word[1:-1]
        if word in self._data:
            return self._data[word]
        if word.isdigit():
            return int(word)
        if word in _FUNCTIONS:
            return _FUNCTIONS[word]()
        raise BackendError(f'failed to generate username: function "{word}" not defined')
