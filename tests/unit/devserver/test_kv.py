"""
The versioned key/value engine, beyond what was recorded.
"""

from __future__ import annotations

import pytest

DATA = "secret/data/a"
METADATA = "secret/metadata/a"
MERGE = {"content_type": "application/merge-patch+json"}


def write(api, value, **options):
    return api.ok("POST", DATA, {"data": {"v": value}, **({"options": options} if options else {})})["data"]["version"]


def test_no_more_versions_are_kept_than_allowed(api):
    """Ten, or what the secret or the engine says; the oldest go."""
    for number in range(1, 13):
        assert write(api, number) == number
    shown = api.ok("GET", METADATA)["data"]
    assert (shown["oldest_version"], shown["current_version"], len(shown["versions"])) == (3, 12, 10)
    assert api.ask("GET", f"{DATA}?version=2")[0] == 404
    api.ok("POST", METADATA, {"max_versions": 2})
    write(api, 13)
    assert list(api.ok("GET", METADATA)["data"]["versions"]) == ["12", "13"]


def test_check_and_set_lets_the_expected_version_pass(api):
    """0 is for a secret that does not exist yet; it may be required of all writers."""
    assert write(api, 1, cas=0) == 1
    refused = (400, "check-and-set parameter did not match the current version")
    assert api.refusal("POST", DATA, {"data": {}, "options": {"cas": 0}}) == refused
    assert write(api, 2, cas=1) == 2
    api.ok("POST", "secret/config", {"cas_required": True})
    required = (400, "check-and-set parameter required for this call")
    assert api.refusal("POST", DATA, {"data": {}}) == required
    assert api.refusal("PATCH", DATA, {"data": {}}, **MERGE) == required
    assert api.refusal("POST", DATA, {"data": {}, "options": {"cas": "x"}}) == (
        400,
        "error parsing check-and-set parameter",
    )


def test_a_patch_merges_and_null_removes(api):
    """RFC 7396; what does not exist, or is deleted, cannot be patched."""
    assert api.ask("PATCH", DATA, {"data": {"x": 1}}, **MERGE) == (404, None)
    api.ok("POST", DATA, {"data": {"a": 1, "b": {"c": 2, "d": 3}}})
    api.ok("PATCH", DATA, {"data": {"a": None, "b": {"c": 4}}}, **MERGE)
    assert api.ok("GET", DATA)["data"]["data"] == {"b": {"c": 4, "d": 3}}
    api.ok("DELETE", DATA)
    status, body = api.ask("PATCH", DATA, {"data": {}}, **MERGE)
    assert (status, bool(body["data"]["deletion_time"])) == (404, True)


def test_subkeys_show_names_alone(api):
    """Values are null, to the depth that is asked for."""
    api.ok("POST", DATA, {"data": {"a": 1, "b": {"c": {"d": 2}}}})
    assert api.ok("GET", "secret/subkeys/a")["data"]["subkeys"] == {"a": None, "b": {"c": {"d": None}}}
    assert api.ok("GET", "secret/subkeys/a?depth=1")["data"]["subkeys"] == {"a": None, "b": None}
    assert api.ok("GET", "secret/subkeys/a?depth=2")["data"]["subkeys"] == {"a": None, "b": {"c": None}}


def test_versions_are_deleted_brought_back_and_destroyed_by_number(api):
    """Data of a destroyed version is gone for good, also after an undelete."""
    write(api, 1)
    write(api, 2)
    api.ok("POST", "secret/delete/a", {"versions": [1]})
    assert api.ask("GET", f"{DATA}?version=1")[0] == 404
    assert api.ok("GET", DATA)["data"]["data"] == {"v": 2}
    api.ok("POST", "secret/undelete/a", {"versions": "1"})
    assert api.ok("GET", f"{DATA}?version=1")["data"]["data"] == {"v": 1}
    api.ok("PUT", "secret/destroy/a", {"versions": [1, 9]})
    api.ok("POST", "secret/undelete/a", {"versions": [1]})
    assert api.ask("GET", f"{DATA}?version=1")[1]["data"]["metadata"]["destroyed"] is True
    assert api.refusal("POST", "secret/delete/a", {}) == (400, "No version number provided")


def test_the_shorter_time_to_deletion_counts(api):
    """Of the engine's and the secret's; the version shows it, and can be read until then."""
    api.ok("POST", "secret/config", {"delete_version_after": "1h"})
    api.ok("POST", METADATA, {"delete_version_after": "10s"})
    write(api, 1)
    api.server.step(9)
    assert api.ok("GET", DATA)["data"]["data"] == {"v": 1}
    api.server.step(2)
    assert api.ask("GET", DATA)[0] == 404
    api.ok("POST", "secret/config", {"delete_version_after": "-1s"})
    write(api, 2)
    assert api.ok("GET", DATA)["data"]["metadata"]["deletion_time"] == ""
    assert api.ok("GET", "secret/config")["data"]["delete_version_after"] == "0s"


def test_metadata_has_a_version_of_its_own(api, vault_api):
    """openbao: `metadata_cas` guards it; Vault does not show it."""
    api.ok("POST", METADATA, {"custom_metadata": {"owner": "me", "n": 5}, "metadata_cas": 0})
    shown = api.ok("GET", METADATA)["data"]
    assert (shown["custom_metadata"], shown["current_metadata_version"]) == ({"owner": "me", "n": "5"}, 1)
    mismatch = (400, "metadata check-and-set parameter does not match the current version")
    assert api.refusal("POST", METADATA, {"max_versions": 3, "metadata_cas": 5}) == mismatch
    api.ok("PATCH", METADATA, {"custom_metadata": {"n": None, "x": "y"}, "metadata_cas": 1}, **MERGE)
    assert api.ok("GET", METADATA)["data"]["custom_metadata"] == {"owner": "me", "x": "y"}
    vault_api.ok("POST", METADATA, {"max_versions": 3})
    assert "current_metadata_version" not in vault_api.ok("GET", METADATA)["data"]


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"custom_metadata": {"a": {}}}, "custom_metadata validation failed: "),
        ({"custom_metadata": {str(number): "x" for number in range(65)}}, "1 error occurred:\n\t* custom_metadata "),
        ({"metadata_cas": 3, "max_versions": 1}, "metadata_cas must be 0 when creating new metadata"),
    ],
)
def test_bad_metadata_is_refused(api, body, refusal):
    """A 400 that says why."""
    status, text = api.refusal("POST", METADATA, body)
    assert status == 400
    assert text.startswith(refusal)
