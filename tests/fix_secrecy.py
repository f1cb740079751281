"""
A watch over the whole run: no secret that passed through the library is in anything that it let anybody see.

Secrets are long words; so every long word that is logged anywhere (down to DEBUG), told by an event, or part of an
error that a test expected (texts, attributes, locals of frames, and what Sentry makes of it by its default settings)
is kept, and compared with the secrets when the run ends.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import vault_pool
from vault_pool.core.lease import Credential
from vault_pool.runtime.tenant import Tenant
from vault_pool.vault.secret import Secret

_TESTS = str(Path(__file__).parent)
_PACKAGE = str(Path(vault_pool.__file__).parent)
_LONG = 16
_WORD = re.compile(rf"[A-Za-z0-9_.~-]{{{_LONG},}}")
_DEPTH = 6


def shown(value: Any, depth: int = 0) -> str:
    """What an error reporter shows of a value: containers are walked, anything else is asked for its repr."""
    if isinstance(value, dict) and depth < _DEPTH:
        return " ".join(shown(key, depth + 1) + "=" + shown(item, depth + 1) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)) and depth < _DEPTH:
        return " ".join(shown(item, depth + 1) for item in value)
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a reporter goes on, too
        return str(error)


def reported(error: BaseException) -> str:
    """What an error reporter sends: texts, attributes, the locals of every frame, and all of the errors behind it."""
    words: list[str] = []
    todo: list[BaseException | None] = [error]
    seen = set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        words += [str(each), repr(each), shown(each.args), shown(vars(each))]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if not frame.f_code.co_filename.startswith(_TESTS):
                words.append(shown(dict(frame.f_locals)))
        todo += [each.__cause__, each.__context__]
    return "\n".join(words)


def sentry_event(error: BaseException) -> str:
    """What Sentry sends of *error* by its default settings; frames of tests, which may know a secret, left out."""
    from sentry_sdk.client import Client
    from sentry_sdk.serializer import serialize
    from sentry_sdk.utils import event_from_exception

    client = Client(dsn=None, default_integrations=False)
    event, _ = event_from_exception(error, client_options=client.options)
    for each in event["exception"]["values"]:
        frames = each.get("stacktrace", {}).get("frames", [])
        kept = [frame for frame in frames if not str(frame.get("abs_path")).startswith(_TESTS)]
        each["stacktrace"] = {"frames": kept}
    return json.dumps(serialize(event), default=repr)


class Watch(logging.Handler):
    """Long words that could be seen, each with where it was first, and secrets."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.secrets: set[str] = set()
        self.words: dict[str, str] = {}

    def secret(self, value: Any) -> None:
        """Note that *value* must not be seen."""
        if isinstance(value, str) and len(value) >= _LONG:
            self.secrets.add(value.strip(".~-_"))

    def see(self, text: str, where: str) -> None:
        """Note what could be seen."""
        for word in _WORD.findall(text):
            self.words.setdefault(word.strip(".~-_"), where)

    def emit(self, record: logging.LogRecord) -> None:
        """Note a log record and the error that comes with it."""
        self.see(record.getMessage(), f"the log of {record.name}: {record.msg!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.error(record.exc_info[1], f"an error in the log of {record.name}")

    def error(self, error: BaseException, where: str) -> None:
        """Note all that *error* carries, if it came through the library: tests log in by themselves, too."""
        files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        if not any(file.startswith(_PACKAGE) for file in files):
            return
        self.see(reported(error), where)
        self.see(sentry_event(error), f"Sentry's event of {where}")

    def found(self) -> dict[str, str]:
        """Return where secrets were seen, by their first letters."""
        return {f"{secret[:3]}***": self.words[secret] for secret in self.secrets & self.words.keys()}


class _Expected:
    """What `pytest.raises` returns, with the watch looking at the error."""

    def __init__(self, manager: Any, watch: Watch) -> None:
        self._manager = manager
        self._watch = watch

    def __enter__(self) -> Any:
        return self._manager.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        if error is not None:
            self._watch.error(error, f"an expected {type(error).__name__}: {str(error)[:80]!r}")
        return self._manager.__exit__(kind, error, trace)


@pytest.fixture(scope="session", autouse=True)
def secrecy() -> Iterator[Watch]:
    """Watch the run, and fail its last test where a secret was seen."""
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        _listen(watch, patch)
        root = logging.getLogger()
        root.addHandler(watch)
        patch.setattr(root, "level", logging.DEBUG)
        logging.getLogger().manager._clear_cache()
        yield watch
        root.removeHandler(watch)
    assert not watch.found()


def _listen(watch: Watch, patch: pytest.MonkeyPatch) -> None:
    keep_secret, keep_credential, emit, raises = Secret.__init__, Credential.__init__, Tenant.emit, pytest.raises

    def secret(self: Secret, value: Any) -> None:
        watch.secret(value)
        keep_secret(self, value)

    def credential(self: Credential, user: str, password: str) -> None:
        watch.secret(password)
        keep_credential(self, user, password)

    def event(self: Tenant[Any], event: Any) -> None:
        watch.see(repr(event), f"event {type(event).__name__}")
        emit(self, event)

    def expecting(*args: Any, **kwargs: Any) -> Any:
        manager = raises(*args, **kwargs)
        return _Expected(manager, watch) if hasattr(manager, "__exit__") else manager

    patch.setattr(Secret, "__init__", secret)
    patch.setattr(Credential, "__init__", credential)
    patch.setattr(Tenant, "emit", event)
    patch.setattr(pytest, "raises", expecting)
