"""
Field types: what Go's decoder makes of JSON values of another type.
"""

from __future__ import annotations

import pytest

from vault_pool.devserver.field_types import FLAG, LIST, MAP, NUMBER, PAIRS, SECONDS, STRINGS, TEXT
from vault_pool.devserver.flavor import OPENBAO, VAULT


@pytest.mark.parametrize(
    ("convert", "value", "made"),
    [
        (TEXT, 5, "5"),
        (TEXT, True, "1"),
        (TEXT, None, ""),
        (FLAG, "t", True),
        (FLAG, 0, False),
        (FLAG, None, False),
        (NUMBER, "", 0),
        (NUMBER, "0x10", 16),
        (NUMBER, True, 1),
        (SECONDS, None, 0),
        (SECONDS, "1h", 3600),
        (LIST, "a,b", ["a,b"]),
        (LIST, {}, []),
        (LIST, [1, True], ["1", "1"]),
        (STRINGS, "a, b,", ["a", "b"]),
        (STRINGS, None, []),
        (PAIRS, ["a=b"], {"a": "b"}),
        (PAIRS, {"a": 1}, {"a": "1"}),
        (MAP, [], {}),
    ],
)
def test_values_are_converted_weakly(convert, value, made):
    """Scalars become what the field is, null its zero."""
    assert convert(value, OPENBAO) == made


@pytest.mark.parametrize(
    ("convert", "value", "openbao", "vault"),
    [
        (
            TEXT,
            {"a": 1},
            "'' expected type 'string', got unconvertible type 'map[string]interface {}'",
            "'' expected type 'string', got unconvertible type 'map[string]interface {}', value: 'map[a:1]'",
        ),
        (
            FLAG,
            5,
            "'' cannot parse value as 'bool': strconv.ParseBool: invalid syntax",
            "cannot parse '' as bool: strconv.ParseBool: parsing \"5\": invalid syntax",
        ),
        (
            NUMBER,
            "1h",
            "'' cannot parse value as 'int': strconv.ParseInt: invalid syntax",
            "cannot parse '' as int: strconv.ParseInt: parsing \"1h\": invalid syntax",
        ),
        (PAIRS, "x", 'invalid key pair "x"', 'invalid key pair "x"'),
        (
            MAP,
            "x",
            "'' expected type 'map[string]interface {}', got unconvertible type 'string'",
            "'' expected a map, got 'string'",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused_in_each_products_words(convert, value, openbao, vault):
    """Their decoders are of different versions."""
    for flavor, text in ((OPENBAO, openbao), (VAULT, vault)):
        with pytest.raises(ValueError) as refusal:
            convert(value, flavor)
        assert str(refusal.value) == text
