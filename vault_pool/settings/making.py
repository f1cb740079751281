"""
What is made of settings: a pool, its source, the Vault behind it and the login to that.

Values may be secrets, and error reporters show the locals of frames: so whatever is raised in here ends in `pool`,
which hands on its text alone.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from vault_pool.core.policy import RenewalPolicy
from vault_pool.errors import ConfigurationError
from vault_pool.runtime import forking
from vault_pool.settings.given import Given
from vault_pool.settings.table import LOGINS, SETTINGS, SOURCES, Section

T = TypeVar("T")

#: The source that needs no Vault, for laptops.
_FIXED = "fixed"
_KEY = secrets.token_bytes(32)
_lock = forking.lock()  # guards the two below
_vaults: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
_sources: WeakValueDictionary[bytes, Any] = WeakValueDictionary()


def pool(
    make: Callable[..., T], mapping: Mapping[str, Any], prefix: str, arguments: Mapping[str, Any], *, strict: bool
) -> T | str:
    """
    Return what *make* makes of the settings in *mapping*, or what is wrong with them.

    *arguments* are further ones for *make*, and go before settings. Raises nothing: its locals may hold secrets.
    """
    try:
        given = Given(mapping, prefix, strict=strict)
        settled = {**given.arguments(Section.POOL), **arguments}
        if "source" not in settled:
            settled["source"] = _source(given)
        if given.names(Section.POLICY) and "policy" not in settled:
            settled["policy"] = _policy(given, settled)
        return _made(given, Section.POOL, make, settled)
    except (ConfigurationError, TypeError, ValueError) as error:
        return str(error)


def _policy(given: Given, settled: Mapping[str, Any]) -> RenewalPolicy:
    later = {"retire_timeout": settled["retire_timeout"]} if "retire_timeout" in settled else {}
    return _made(given, Section.POLICY, RenewalPolicy, {**later, **given.arguments(Section.POLICY)})


def _source(given: Given) -> Any:
    chosen = given.value(SETTINGS["source"]) if given.has("source") else SETTINGS["source"].default
    if not isinstance(chosen, str):
        _alone(given, "source", Section.SOURCE, Section.VAULT, Section.AUTH)
        return chosen
    arguments = given.arguments(Section.SOURCE, chosen)
    # The settings of a laptop may be laid over those of production.
    if chosen != _FIXED:
        _suited(given, Section.SOURCE, "source", chosen)
    make = _loaded(SOURCES[chosen])
    if "vault" in inspect.signature(make).parameters:
        arguments["vault"] = _vault(given)
    elif chosen != _FIXED:
        _alone(given, "source", Section.VAULT, Section.AUTH)
    return _shared(_sources, (chosen, arguments), lambda: _named(given, Section.SOURCE, "source", chosen, arguments))


def _vault(given: Given) -> Any:
    """
    Return the Vault that was given, or that settings describe; all pools with the same settings share it.
    """
    if given.has("vault"):
        made = given.value(SETTINGS["vault"])
        _alone(given, "vault", Section.VAULT, Section.AUTH)
        return made
    arguments = given.arguments(Section.VAULT)
    key = arguments.pop("key", None)
    if key is not None and "cert" not in arguments:
        raise ConfigurationError(f"{given.spelled('vault_key')} is the key of {given.spelled('vault_cert')}: give both")
    if key is not None:
        arguments["cert"] = (arguments["cert"], key)
    if arguments and "address" not in arguments:
        raise ConfigurationError(
            f"{given.spelled('vault_address')} is missing: with any setting of Vault's, its own variables "
            "(VAULT_ADDR, …) are not read"
        )
    login = given.value(SETTINGS["auth"]) if given.has("auth") else None
    method = given.arguments(Section.AUTH, login) if isinstance(login, str) else {}
    return _shared(_vaults, (arguments, login, method), lambda: _new_vault(given, arguments, login))


def _new_vault(given: Given, arguments: dict[str, Any], login: Any) -> Any:
    from vault_pool.vault.client import Vault, auth_from_env  # noqa: PLC0415 - settings of another source need none

    auth = _login(given, login)
    try:
        if not arguments:
            return Vault.from_env(auth)
        auth = auth or auth_from_env()
    except ConfigurationError as error:
        text = str(error)
    else:
        return _made(given, Section.VAULT, Vault, {**arguments, "auth": auth})
    for argument, name in (("pass address", "vault_address"), ("pass auth", "auth")):
        text = text.replace(argument, f"give {given.spelled(name)}")
    raise ConfigurationError(text)


def _login(given: Given, chosen: Any) -> Any:
    if not isinstance(chosen, str):
        _alone(given, "auth", Section.AUTH)
        return chosen
    _suited(given, Section.AUTH, "auth", chosen)
    return _named(given, Section.AUTH, "auth", chosen, given.arguments(Section.AUTH, chosen))


def _named(given: Given, section: Section, selector: str, chosen: str, arguments: dict[str, Any]) -> Any:
    """
    Return the source or the login *chosen*; without any setting of it, made from its own environment variables.
    """
    make = _loaded((SOURCES if section is Section.SOURCE else LOGINS)[chosen])
    if not arguments and hasattr(make, "from_env"):
        try:
            return make.from_env()
        except ConfigurationError as error:
            text = str(error)
        raise ConfigurationError(f"{given.spelled(selector)}={chosen!r} without settings of its own: {text}")
    missing = [
        given.spelled(section.value * (section is not Section.SOURCE) + name)
        for name, each in inspect.signature(make).parameters.items()
        if each.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)}: missing, {given.spelled(selector)}={chosen!r} needs it")
    return _made(given, section, make, arguments)


def _made(given: Given, section: Section, make: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    """
    Call *make*; its errors, which name an argument, name the setting instead.
    """
    try:
        return make(**arguments)
    except (ConfigurationError, ValueError) as error:
        text = str(error).removeprefix("RenewalPolicy.")
    prefix = "" if section is Section.SOURCE else section.value

    def spelled(word: re.Match[str]) -> str:
        name = prefix + word.group()
        # In the middle of a text a plain word such as "role" is just a word.
        meant = name in SETTINGS and (word.start() == 0 or "_" in word.group())
        return given.spelled(name) if meant else word.group()

    raise ConfigurationError(re.sub(r"\w+", spelled, text))


def _suited(given: Given, section: Section, selector: str, chosen: str) -> None:
    for row in given.misplaced(section, chosen):
        raise ConfigurationError(
            f"{given.spelled(row.name)} is a setting of {given.spelled(selector)}={' or '.join(row.of)}, "
            f"and not of {chosen}"
        )


def _alone(given: Given, selector: str, *sections: Section) -> None:
    """
    Raise `ConfigurationError` for settings of *sections*: what *selector* names has no use for them.
    """
    beside = [name for name in given.names(*sections) if name != selector]
    if beside and given.has(selector):
        raise ConfigurationError(f"{given.spelled(beside[0])} is of no use with this {given.spelled(selector)}")
    if beside:
        raise ConfigurationError(f"{given.spelled(beside[0])} needs {given.spelled(selector)}, which names the method")


def _shared(known: WeakValueDictionary[bytes, Any], settings: Any, make: Callable[[], Any]) -> Any:
    """
    Return the object made of *settings* before, as long as somebody uses it; else a new one.

    The key is a digest, so that no table keeps a secret in clear. Vault's own variables are part of it.
    """
    own = sorted(item for item in os.environ.items() if item[0].startswith(("VAULT_", "BAO_")))
    key = hashlib.blake2b(repr((_plain(settings), own)).encode(errors="replace"), key=_KEY).digest()
    with _lock:
        made = known.get(key)
        if made is None:
            made = known[key] = make()
        return made


def _plain(value: Any) -> Any:
    """
    Return *value* with an id for each object: whatever is made of one keeps it, and so its id.
    """
    if isinstance(value, dict):
        return sorted((key, _plain(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float)) else id(value)


def _loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
