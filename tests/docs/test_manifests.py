"""
The manifests for Kubernetes, as far as they can be tried without one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vault_pool import VaultPool

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"


def documents(name):
    """Return what a file describes."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def containers(name):
    """Return the containers of its deployments."""
    found = [each["spec"]["template"]["spec"]["containers"] for each in documents(name) if each["kind"] == "Deployment"]
    return [container for each in found for container in each]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_the_settings_of_a_manifest_make_a_pool(monkeypatch, name):
    """They are settings that exist, with values that can be; nothing is asked of a server for that."""
    (container,) = containers(name)
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    pool = VaultPool.from_env()
    assert pool.closed
    assert pool.max_size == 8


def test_the_token_is_mounted_where_the_settings_say():
    """The projected token's file is the one that the login reads."""
    deployment = documents("auth.yaml")[1]["spec"]["template"]["spec"]
    (container,) = deployment["containers"]
    (mount,) = container["volumeMounts"]
    (source,) = deployment["volumes"][0]["projected"]["sources"]
    settings = {variable["name"]: variable["value"] for variable in container["env"]}
    path = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert settings["VAULT_POOL_AUTH_TOKEN_FILE"] == path


def test_the_file_is_rendered_where_the_settings_say():
    """The injector writes below /vault/secrets, by the name in the annotation."""
    annotations = documents("agent.yaml")[0]["spec"]["template"]["metadata"]["annotations"]
    (container,) = containers("agent.yaml")
    settings = {variable["name"]: variable["value"] for variable in container["env"]}
    (rendered,) = [
        key.removeprefix("vault.hashicorp.com/agent-inject-secret-")
        for key in annotations
        if key.startswith("vault.hashicorp.com/agent-inject-secret-")
    ]
    assert settings["VAULT_POOL_PATH"] == f"/vault/secrets/{rendered}"
