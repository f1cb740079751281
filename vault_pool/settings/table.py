"""
The table: every setting, a row each, for `from_config`, `from_env`, the integrations, the command line and the docs.

A row for each argument of a constructor is all that a new argument needs; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from vault_pool.settings.kinds import (
    ADDRESSES,
    FLAG,
    MAPPING,
    NUMBER,
    PATH,
    REFERENCE,
    SECONDS,
    TEXT,
    TRUST,
    WHOLE,
    Kind,
    choice,
    choice_or,
    instance,
    optional,
)

#: The default of a setting that has to be given.
REQUIRED: Any = Ellipsis


class Section(Enum):
    """
    What a setting is an argument of; the value is what its name begins with.
    """

    POOL = ""
    SOURCE = "source"
    VAULT = "vault_"
    AUTH = "auth_"
    POLICY = "policy_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """
    One row: the setting's name, its type, what holds without it, and what it means.

    *tier* is 1 for what everybody sets, 2 for what some do, 3 for what hardly anybody needs. *of* are the sources
    (the logins) that have it. *default* is that of the constructor's argument, by source or login where they differ;
    *limits* are in words. *variable* is Vault's own environment variable for it.
    """

    name: str
    kind: Kind
    default: Any
    tier: int
    meaning: str
    limits: str = ""
    of: tuple[str, ...] = ()
    section: Section = Section.POOL
    secret: bool = False
    variable: str = ""

    @property
    def argument(self) -> str:
        """
        The name of the constructor's argument.
        """
        return self.name.removeprefix("" if self.section is Section.SOURCE else self.section.value)


#: The sources that settings can name, each with its class.
SOURCES = {
    "dynamic_role": "vault_pool.sources.dynamic_role:DynamicRole",
    "static_role": "vault_pool.sources.static_role:StaticRole",
    "kv": "vault_pool.sources.kv:KV",
    "agent_file": "vault_pool.sources.agent_file:AgentFile",
    "fixed": "vault_pool.sources.fixed:Fixed",
}

#: The logins that settings can name, each with its class.
LOGINS = {
    "token": "vault_pool.vault.auth:Token",
    "approle": "vault_pool.vault.auth:AppRole",
    "kubernetes": "vault_pool.vault.auth:Kubernetes",
    "jwt": "vault_pool.vault.auth:JWT",
    "userpass": "vault_pool.vault.auth:UserPass",
    "ldap": "vault_pool.vault.auth:LDAP",
    "cert": "vault_pool.vault.auth:TLSCertificate",
    "agent": "vault_pool.vault.auth:AgentToken",
}

_SOURCE = choice_or(instance("a source made in code", "read", "renew", "revoke"), *SOURCES)
_AUTH = choice_or(instance("a login made in code", "login"), *LOGINS)
#: None: the name of the method.
_MOUNTS = {"userpass": None, "ldap": None, **{name: name for name in ("approle", "kubernetes", "jwt", "cert")}}
_VAULT = instance("a Vault made in code", "call", "attach", "detach")


def _rows(section: Section, *rows: Setting) -> tuple[Setting, ...]:
    return tuple(replace(row, section=section) for row in rows)


def _row(  # noqa: PLR0917 - a row of the table
    name: str,
    kind: Kind,
    default: Any,
    tier: int,
    meaning: str,
    limits: str = "",
    *,
    of: str = "",
    secret: bool = False,
    variable: str = "",
) -> Setting:
    return Setting(
        name=name,
        kind=kind,
        default=default,
        tier=tier,
        meaning=meaning,
        limits=limits,
        of=tuple(of.split()),
        secret=secret,
        variable=variable,
    )


POOL = _rows(
    Section.POOL,
    _row("conninfo", TEXT, "", 1, "Where the database is: libpq's connection string or URL.", "no user, no password"),
    _row("kwargs", optional(MAPPING), None, 3, "More of psycopg's connection arguments.", "no user, no password"),
    _row("min_size", WHOLE, 4, 1, "Connections that are kept open.", "at least 0"),
    _row(
        "max_size", optional(WHOLE), None, 1, "Connections up to which the pool grows; none: `min_size`.", "≥ min_size"
    ),
    _row("overlap", optional(WHOLE), None, 2, "Connections beyond `max_size` during a swap; none: `min_size`.", "≥ 1"),
    _row("timeout", SECONDS, 30.0, 1, "How long a checkout may take.", "more than 0"),
    _row("retire_timeout", SECONDS, 30.0, 2, "How long old connections should have for coming back.", "more than 0"),
    _row(
        "lookup_interval", optional(SECONDS), 60.0, 2, "How often Vault is asked whether the lease is in force.", "> 0"
    ),
    _row("assume_role", optional(TEXT), None, 1, "A role of the database that every session acts as; none: its own."),
    _row(
        "on_retire_timeout",
        choice("log", "cancel"),
        "log",
        2,
        "Whether what is late for `retire_timeout` is cancelled.",
    ),
    _row(
        "on_lapse", choice("keep", "close"), "keep", 2, "Open sessions at the end of the lease, when Vault is silent."
    ),
    _row(
        "max_lapse",
        optional(SECONDS),
        None,
        2,
        "How long `keep` keeps them, with `assume_role`; none: a lease duration.",
    ),
    _row("debug", FLAG, False, 3, "Whether the log says by which calls a connection is held."),
    _row("name", optional(TEXT), None, 2, "The pool's name in logs, metrics and threads; none: numbered."),
    _row("max_waiting", WHOLE, 0, 2, "Clients that may queue; 0: any number.", "at least 0"),
    _row("max_lifetime", SECONDS, 3600.0, 2, "Age after which a connection is replaced.", "more than 0"),
    _row(
        "max_idle", SECONDS, 600.0, 2, "Idle time after which a connection beyond `min_size` is closed.", "more than 0"
    ),
    _row("reconnect_timeout", SECONDS, 300.0, 3, "How long a lost connection is tried again."),
    _row("num_workers", WHOLE, 3, 3, "Threads that maintain the pool.", "at least 1"),
    _row("close_returns", FLAG, False, 3, "Whether `close()` of a connection gives it back."),
    _row("connection_class", REFERENCE, "psycopg:Connection", 3, "The class of the connections."),
    _row("configure", optional(REFERENCE), None, 2, "Called with each new connection."),
    _row("check", optional(REFERENCE), None, 2, "Called with each connection before it is lent."),
    _row("reset", optional(REFERENCE), None, 3, "Called with each connection that comes back."),
    _row("reconnect_failed", optional(REFERENCE), None, 3, "Called after `reconnect_timeout`."),
    _row("on_event", optional(REFERENCE), None, 3, "Called with each event, on a worker thread."),
)

SOURCE = _rows(
    Section.SOURCE,
    _row("source", _SOURCE, "dynamic_role", 1, "Where credentials come from."),
    _row("role", TEXT, REQUIRED, 1, "The role of Vault's database engine.", of="dynamic_role static_role"),
    _row(
        "mount_point",
        TEXT,
        {"dynamic_role": "database", "static_role": "database", "kv": "secret"},
        2,
        "Where the secrets engine is mounted.",
        of="dynamic_role static_role kv",
    ),
    _row("path", PATH, REQUIRED, 1, "The secret's path below the mount point, or the file's.", of="kv agent_file"),
    _row("version", WHOLE, 2, 2, "The version of the KV engine.", "1 or 2", of="kv"),
    _row("format", optional(choice("json", "dotenv")), None, 2, "The file's; none: by its suffix.", of="agent_file"),
    _row("user_field", TEXT, "username", 2, "The field that holds the user.", of="kv agent_file"),
    _row("password_field", TEXT, "password", 2, "The field that holds the password.", of="kv agent_file"),
    _row(
        "interval",
        SECONDS,
        {"kv": 60.0, "agent_file": 1.0},
        2,
        "How often it is looked at.",
        "kv: at least 1, agent_file: at least 0.5",
        of="kv agent_file",
    ),
    _row("user", TEXT, REQUIRED, 1, "The user, where there is no Vault.", of="fixed", variable="PGUSER"),
    _row("password", TEXT, REQUIRED, 1, "The password.", of="fixed", secret=True, variable="PGPASSWORD"),
)

VAULT = _rows(
    Section.VAULT,
    _row("vault", optional(_VAULT), None, 3, "A `Vault` made in code, instead of all of `vault_…` and `auth…`."),
    _row(
        "vault_address",
        ADDRESSES,
        REQUIRED,
        1,
        "Vault's URL, or several, tried in order. Without any `vault_…` setting, Vault's own variables say all of it.",
        "https://, http://, unix://",
        variable="VAULT_ADDR",
    ),
    _row(
        "vault_namespace",
        optional(TEXT),
        None,
        2,
        "The namespace, of Vault Enterprise or OpenBao.",
        variable="VAULT_NAMESPACE",
    ),
    _row("vault_verify", TRUST, True, 2, "How the server's certificate is checked.", variable="VAULT_CACERT"),
    _row(
        "vault_cert",
        optional(PATH),
        None,
        2,
        "A client certificate, with its key or with `vault_key`.",
        variable="VAULT_CLIENT_CERT",
    ),
    _row("vault_key", optional(PATH), None, 2, "The key of `vault_cert`.", variable="VAULT_CLIENT_KEY"),
    _row(
        "vault_tls_server_name",
        optional(TEXT),
        None,
        3,
        "The name that the server's certificate has to bear.",
        variable="VAULT_TLS_SERVER_NAME",
    ),
    _row("vault_proxy", optional(TEXT), None, 3, "The URL of an HTTP proxy.", variable="VAULT_PROXY_ADDR"),
    _row(
        "vault_timeout",
        SECONDS,
        10.0,
        2,
        "How long a request may take, with all its attempts.",
        "more than 0",
        variable="VAULT_CLIENT_TIMEOUT",
    ),
    _row(
        "vault_follow_redirects",
        FLAG,
        True,
        3,
        "Whether a standby's redirect is followed.",
        variable="VAULT_DISABLE_REDIRECTS",
    ),
    _row("vault_name", optional(TEXT), None, 3, "Vault's name in logs; none: its host and port."),
)

AUTH = _rows(
    Section.AUTH,
    _row(
        "auth",
        optional(_AUTH),
        None,
        1,
        "How to log in. Without it, Vault's own variables say: `VAULT_TOKEN`, `VAULT_ROLE_ID` and so on.",
    ),
    _row(
        "auth_mount_point",
        TEXT,
        _MOUNTS,
        2,
        "Where the auth method is mounted.",
        of="approle kubernetes jwt userpass ldap cert",
    ),
    _row(
        "auth_role",
        optional(TEXT),
        {"kubernetes": REQUIRED, "jwt": None, "cert": None},
        1,
        "The auth method's role.",
        of="kubernetes jwt cert",
    ),
    _row("auth_role_id", TEXT, REQUIRED, 1, "AppRole's role_id.", of="approle", secret=True, variable="VAULT_ROLE_ID"),
    _row(
        "auth_secret_id",
        TEXT,
        None,
        2,
        "AppRole's secret_id; rather give the file.",
        of="approle",
        secret=True,
        variable="VAULT_SECRET_ID",
    ),
    _row(
        "auth_secret_id_file",
        PATH,
        None,
        1,
        "The file that holds the secret_id; read at each login.",
        of="approle",
        variable="VAULT_SECRET_ID_FILE",
    ),
    _row("auth_wrapping_token", TEXT, None, 3, "A token that wraps the secret_id.", of="approle", secret=True),
    _row("auth_wrapping_token_file", PATH, None, 2, "The file that holds that token.", of="approle"),
    _row("auth_role_name", TEXT, None, 3, "Whose secret_id the wrapping token has to hold.", of="approle"),
    _row("auth_token", TEXT, None, 2, "The token, or the JWT; rather give the file.", of="token jwt", secret=True),
    _row(
        "auth_token_file",
        PATH,
        {"token": None, "jwt": None, "kubernetes": "/var/run/secrets/kubernetes.io/serviceaccount/token"},
        1,
        "The file that holds it; read again when needed.",
        of="token kubernetes jwt",
    ),
    _row("auth_username", TEXT, REQUIRED, 1, "The user.", of="userpass ldap"),
    _row("auth_password", TEXT, None, 2, "The password; rather give the file.", of="userpass ldap", secret=True),
    _row("auth_password_file", PATH, None, 1, "The file that holds it; read at each login.", of="userpass ldap"),
)

POLICY = _rows(
    Section.POLICY,
    _row(
        "policy_renew_at", NUMBER, 2 / 3, 3, "The part of a term after which to renew.", "0.5 to 2/3, jitter included"
    ),
    _row(
        "policy_jitter", NUMBER, 0.1, 3, "The part of it by which the moment is spread to the early side.", "0 to 0.25"
    ),
    _row("policy_backoff_base", SECONDS, 0.5, 3, "The longest pause after a first failure.", "more than 0"),
    _row("policy_backoff_cap", SECONDS, 30.0, 3, "The longest pause after any failure.", "at least backoff_base"),
    _row(
        "policy_requests_per_hour",
        NUMBER,
        7200.0,
        3,
        "What a lease may cost Vault, whatever it answers.",
        "more than 0",
    ),
    _row("policy_burst", WHOLE, 30, 3, "Requests of that allowance that may come at once.", "at least 1"),
    _row("policy_request_timeout", SECONDS, 60.0, 3, "After which a request is looked at again.", "more than 0"),
)

SECTIONS: dict[Section, tuple[Setting, ...]] = {
    Section.POOL: POOL,
    Section.SOURCE: SOURCE,
    Section.VAULT: VAULT,
    Section.AUTH: AUTH,
    Section.POLICY: POLICY,
}
SETTINGS: dict[str, Setting] = {row.name: row for rows in SECTIONS.values() for row in rows}

#: The rows that choose, and are no argument of what they choose.
SELECTORS = frozenset({"source", "vault", "auth"})


def takes(row: Setting, chosen: str) -> bool:
    """
    Return whether *row* is an argument of the source or the login *chosen*, or of what there is one of.
    """
    return row.name not in SELECTORS and (not row.of or chosen in row.of)
