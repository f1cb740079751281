"""
The comparison with a recorded answer is strict where it has to be.
"""

from __future__ import annotations

import json

import pytest

from tests.contract.matching import Bindings, odd_shapes
from tests.contract.recording import load, whole_body

_LEASE = "a" * 24


def _differences(recorded, actual, **settings):
    return list(Bindings({}, **settings).differences(recorded, actual))


@pytest.mark.parametrize(
    ("recorded", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {"a": ""}),
        ({"a": []}, {"a": None}),
        ({"errors": ["x"]}, {"errors": ["x", "x"]}),
        ({"errors": ["permission denied"]}, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}),
        ({"ttl": 3600}, {"ttl": 3599}),
        ({"id": "x/<lease:1>"}, {"id": "x/short"}),
        ({"expire_time": "<time>"}, {"expire_time": "2026-01-31 12:00:05+0000"}),
        ({"issue_time": "<time:whole-seconds>"}, {"issue_time": "2026-01-31T12:00:05.5Z"}),
        ({"creation_time": "<unix>"}, {"creation_time": "1800000000"}),
        ({"version": 1}, {"version": 2}),
    ],
)
def test_what_is_not_the_same_is_reported(recorded, actual):
    """Keys, types, literals and forms count."""
    assert _differences(recorded, actual)


def test_a_placeholder_means_the_same_value_wherever_it_returns():
    """It is bound by the first answer that shows it."""
    bound = Bindings({})
    assert not list(bound.differences({"id": "x/<lease:1>"}, {"id": f"x/{_LEASE}"}))
    assert bound.fill({"lease_id": "x/<lease:1>"}) == {"lease_id": f"x/{_LEASE}"}
    assert not list(bound.differences({"id": "x/<lease:1>"}, {"id": f"x/{_LEASE}"}))
    assert list(bound.differences({"id": "x/<lease:1>"}, {"id": f"x/{_LEASE[:-1]}b"}))


def test_a_placeholder_may_be_a_key():
    """Lists of leases by id are compared as well."""
    assert not _differences({"<lease:1>": {"n": 1}}, {_LEASE: {"n": 1}})
    assert _differences({"<lease:1>": {"n": 1}}, {_LEASE: {"n": 2}})


def test_a_second_is_allowed_where_the_clock_cannot_be_set():
    """Only where a remaining time is shown, also inside a warning."""
    assert not _differences({"ttl": 3600}, {"ttl": 3599}, tolerance=1)
    assert _differences({"ttl": 3600}, {"ttl": 3598}, tolerance=1)
    assert _differences({"num_uses": 3}, {"num_uses": 2}, tolerance=1)
    warning = 'TTL of "2h" exceeded the effective max_ttl of "{}"; TTL value is capped accordingly'
    assert not _differences([warning.format("1m")], [warning.format("59s")], tolerance=1)
    assert _differences([warning.format("1m")], [warning.format("58s")], tolerance=1)
    assert not _differences({"warnings": None}, {"warnings": [warning.format("1h59m59s")]}, tolerance=1)
    assert _differences({"warnings": None}, {"warnings": [warning.format("1h59m58s")]}, tolerance=1)
    assert _differences({"warnings": None}, {"warnings": [warning.format("1h59m59s")]})


def test_the_drivers_words_are_free():
    """What is said after them is Go's."""
    recorded = {"errors": ["x: failed to connect to `user=a`: dial error"]}
    assert not _differences(recorded, {"errors": ["x: failed to connect to `host=b`: refused"]})
    assert _differences(recorded, {"errors": ["y: failed to connect to `user=a`: dial error"]})


def test_random_values_must_have_their_form():
    """Length, prefix and kinds of characters are looked at."""
    shape = {"password": "20 characters: lower,upper,digit,dash", "client_token": "s. + 24 characters"}
    body = {"data": {"password": "aB3-" * 5}, "auth": {"client_token": "s." + "x" * 24}}
    assert not list(odd_shapes(shape, body))
    assert list(odd_shapes(shape, {"data": {"password": "aB3x" * 5}}))
    assert list(odd_shapes(shape, {"auth": {"client_token": "hvs." + "x" * 24}}))


def test_long_bodies_are_sent_whole():
    """They are recorded by their beginning and their size."""
    assert whole_body('{"a":{"a":{"a":... (13 bytes)') == b'{"a":{"a":1}}'
    assert json.loads(whole_body('{"lease_id":"xxxx... (115 bytes)')) == {"lease_id": "x" * 100}
    assert whole_body('{"lease_id":"\xff"}') == b'{"lease_id":"\xff"}'


@pytest.mark.parametrize(("trace", "flavor"), [("-- ping", "openbao"), (";", "vault")])
def test_a_file_tells_whose_it_is(tmp_path, trace, flavor):
    """By its name, or by what only one product does."""
    line = {"id": "a", "scenario": "s", "seq": 1, "kind": "statements", "t": 0, "statements": [trace]}
    path = tmp_path / "more.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert [one.flavor for one in load(path)] == [flavor]
    path.write_text(json.dumps({**line, "statements": []}) + "\n")
    with pytest.raises(ValueError, match="--flavor"):
        load(path)
    assert [one.flavor for one in load(path, "vault")] == ["vault"]
