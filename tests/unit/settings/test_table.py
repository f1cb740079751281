"""
The table of settings against the constructors that it feeds.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import pytest

import vault_pool
from vault_pool import RenewalPolicy, Vault, VaultPool
from vault_pool.settings.__main__ import markdown
from vault_pool.settings.making import _loaded
from vault_pool.settings.table import (
    LOGINS,
    REQUIRED,
    SECTIONS,
    SELECTORS,
    SETTINGS,
    SOURCES,
    Section,
    takes,
)

# Arguments that are no settings: what other settings are made into, and what only tests and code can give.
NOT_SETTINGS = {
    Section.POOL: {"source", "policy", "open", "runtime"},
    Section.SOURCE: {"vault"},
    Section.VAULT: {"auth"},
    Section.AUTH: set(),
    Section.POLICY: {"retire_timeout"},
}
# Settings that are half of an argument.
HALVES = {"vault_key"}
CONSTRUCTORS = [
    pytest.param(Section.POOL, "", VaultPool, id="pool"),
    pytest.param(Section.VAULT, "", Vault, id="vault"),
    pytest.param(Section.POLICY, "", RenewalPolicy, id="policy"),
    *(pytest.param(Section.SOURCE, name, _loaded(place), id=name) for name, place in SOURCES.items()),
    *(pytest.param(Section.AUTH, name, _loaded(place), id=name) for name, place in LOGINS.items()),
]


def rows_of(section, chosen):
    return [row for row in SECTIONS[section] if takes(row, chosen) and row.name not in HALVES]


def default_of(row, chosen):
    return row.default[chosen] if isinstance(row.default, dict) else row.default


@pytest.mark.parametrize(("section", "chosen", "make"), CONSTRUCTORS)
def test_every_argument_has_a_row_and_every_row_an_argument(section, chosen, make):
    """A new argument of a constructor needs a row of the table, or a word here why it is no setting."""
    arguments = set(inspect.signature(make).parameters) - NOT_SETTINGS[section]

    assert {row.argument for row in rows_of(section, chosen)} == arguments


@pytest.mark.parametrize(("section", "chosen", "make"), CONSTRUCTORS)
def test_the_defaults_are_those_of_the_constructors(section, chosen, make):
    """What the table says holds without a setting does hold; what is optional alone may be left out by others."""
    parameters = inspect.signature(make).parameters
    for row in rows_of(section, chosen):
        default = parameters[row.argument].default
        if default is inspect.Parameter.empty:
            assert default_of(row, chosen) is REQUIRED, row.name
        elif inspect.isclass(default):
            module, _, name = row.default.partition(":")
            assert getattr(importlib.import_module(module), name) is default
        else:
            assert default_of(row, chosen) == default, row.name


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row.name)
def test_defaults_are_values_of_their_types(row):
    """What holds without a setting can be said by a setting."""
    defaults = row.default.values() if isinstance(row.default, dict) else [row.default]
    for default in defaults:
        if default not in (REQUIRED, None, ""):
            row.kind.parse(default)


def test_the_names_are_each_one_settings():
    """No two rows have one name, and the choices are public classes."""
    assert len(SETTINGS) == sum(len(rows) for rows in SECTIONS.values())
    assert set(SETTINGS) >= SELECTORS
    assert {_loaded(place).__name__ for place in [*SOURCES.values(), *LOGINS.values()]} <= set(vault_pool.__all__)


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row.name)
def test_a_row_is_fit_to_print(row):
    """Three tiers, a sentence of meaning, and the printed table has each of them."""
    assert row.tier in (1, 2, 3)
    assert row.meaning.endswith(".")
    assert "|" not in row.meaning + row.limits + row.kind.words
    assert f"| `{row.name}` | {row.tier} |" in markdown()
    assert dataclasses.is_dataclass(row)
