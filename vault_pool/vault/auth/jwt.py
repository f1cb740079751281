"""
Logins with a signed token that somebody else issued: Kubernetes' service accounts, and JWTs of any issuer.
"""

from __future__ import annotations

import os

from vault_pool.errors import ConfigurationError
from vault_pool.vault.answer import Grant
from vault_pool.vault.auth.material import Material
from vault_pool.vault.login import LoginClient
from vault_pool.vault.paths import checked_mount_point
from vault_pool.vault.secret import Secret

#: Where Kubernetes puts the token of a pod's service account.
SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


class JWT:
    """
    A login with a JWT: *token*, or the *token_file* that is read at each login, since such files are rewritten.

    Without *role* the auth method's ``default_role`` counts (Vault documentation, "JWT/OIDC auth method").
    """

    _path = "?"
    name = "jwt"
    _role: str | None = None
    _public = False

    def __init__(
        self,
        role: str | None = None,
        token: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        mount_point: str = "jwt",
    ) -> None:
        given = None if token is None else Secret(token)
        del token
        if role is not None and (not isinstance(role, str) or not role.strip()):
            raise ConfigurationError(f"role must be the name of a role of the auth method, not {role!r}")
        self._role = role
        self._path = f"auth/{checked_mount_point(mount_point, f'a {self.name} auth method')}/login"
        self._material = Material("token", given, token_file, public=self._public)

    def login(self, client: LoginClient) -> Grant:
        """
        Log in with the JWT as it is now.
        """
        body = {"jwt": self._material.read(), **({} if self._role is None else {"role": self._role})}
        return client.login(self._path, body, may_change=self._material.may_change, lockout=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._role!r}, <secret>, path={self._path!r})"


class Kubernetes(JWT):
    """
    A login with the token of the pod's service account, as *role* (Vault documentation, "Kubernetes auth method").

    The kubelet rewrites *token_file*, so it is read at each login.
    """

    name = "kubernetes"
    # The kubelet makes it readable by all users of the pod.
    _public = True

    def __init__(
        self,
        role: str,
        *,
        token_file: str | os.PathLike[str] = SERVICE_ACCOUNT_TOKEN,
        mount_point: str = "kubernetes",
    ) -> None:
        if role is None:
            raise ConfigurationError("role must be the name of a role of the kubernetes auth method")
        super().__init__(role, token_file=token_file, mount_point=mount_point)
