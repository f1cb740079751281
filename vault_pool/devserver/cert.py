"""
`auth/cert`: whoever shows a certificate that a known authority issued logs in with it. Needs TLS.

vault: ``builtin/credential/cert``. Vault asks for any certificate and refuses the wrong ones at the login; here TLS
itself refuses those of which no role knows the authority. No revocation lists, no OCSP, no intermediate authorities.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from vault_pool.devserver.errors import ApiError, BackendError, denied, refused
from vault_pool.devserver.field_types import FLAG, STRINGS, TEXT
from vault_pool.devserver.framework import NAME, Fields, Reply, Request, Route, keys
from vault_pool.devserver.login_role import OLD_FIELDS, TOKEN_FIELDS, check_policies, grant, token_settings, token_wish
from vault_pool.devserver.token_entry import Auth, in_networks
from vault_pool.devserver.ttl import Wish

if TYPE_CHECKING:
    from vault_pool.devserver.core import Core

_LISTS: Final = (
    "allowed_names",
    "allowed_common_names",
    "allowed_dns_sans",
    "allowed_email_sans",
    "allowed_uri_sans",
    "allowed_organizational_units",
)
_ROLE_FIELDS: Final = {"certificate": TEXT, "display_name": TEXT, **dict.fromkeys(_LISTS, STRINGS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    settings: Mapping[str, Any]
    authority: x509.Certificate

    def trusts(self, certificate: x509.Certificate) -> bool:
        """
        Tell whether *certificate* is the role's own, or its authority issued it.
        """
        if certificate == self.authority:
            return True
        try:
            certificate.verify_directly_issued_by(self.authority)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def admits(self, certificate: x509.Certificate) -> bool:
        """
        Tell whether the names in *certificate* are allowed. vault: ``matchesConstraints``.
        """
        names = _names(certificate)
        both = [*names["allowed_common_names"], *names["allowed_dns_sans"], *names["allowed_email_sans"]]
        return all(
            any(fnmatch.fnmatchcase(name, pattern) for name in found for pattern in self.settings[constraint])
            for constraint, found in {**names, "allowed_names": both}.items()
            if self.settings[constraint]
        )


class CertEngine:
    """
    The auth method. Thread-safe.
    """

    kind: Final = "cert"
    open_paths: Final[Sequence[str]] = ("login",)
    sudo_paths: Final[Sequence[str]] = ()

    def __init__(self, core: Core) -> None:
        self._core = core
        self._roles: dict[str, _Role] = {}
        self._disable_binding = False
        self.routes: Sequence[Route] = (
            Route(pattern="login", fields={"name": TEXT}, operations={"update": self._login}),
            Route(pattern="config", fields={"disable_binding": FLAG}, operations={"update": self._configure}),
            Route(pattern="certs/?", operations={"list": lambda _request, _fields: keys(list(self._roles))}),
            Route(
                pattern=f"certs/{NAME}",
                fields={**TOKEN_FIELDS, **OLD_FIELDS, **_ROLE_FIELDS},
                operations={"read": self._read, "update": self._write, "delete": self._delete},
            ),
        )

    def close(self) -> None:
        """
        Nothing to let go of.
        """

    def renewed_wish(self, auth: Auth, request: Request) -> Wish | None:
        """
        Return what the role wants now, for the certificate of the login; None: the role is gone.
        """
        role = self._roles.get(auth.internal["role"])
        if role is None:
            return None
        check_policies(role.settings["token_policies"], auth)
        if not self._disable_binding:
            if request.certificate is None:
                raise refused("client certificate must be supplied")
            if request.certificate != auth.internal["certificate"]:
                text = "client identity during renewal not matching client identity used during login"
                raise BackendError(text)
        return token_wish(role.settings)

    def _configure(self, _request: Request, fields: Fields) -> None:
        self._disable_binding = fields.get("disable_binding", False)

    def _read(self, _request: Request, fields: Fields) -> Reply | None:
        role = self._roles.get(fields.text("name").lower())
        return None if role is None else Reply(data=dict(sorted(role.settings.items())))

    def _write(self, _request: Request, fields: Fields) -> None:
        name = fields.text("name").lower()
        known = self._roles.get(name)
        old: Mapping[str, Any] = {} if known is None else known.settings
        settings = {"certificate": "", "display_name": name, **dict.fromkeys(_LISTS, ()), **old}
        settings |= fields.within(tuple(_ROLE_FIELDS))
        settings |= token_settings(old or None, fields, openbao=self._core.flavor.openbao)
        try:
            authority = x509.load_pem_x509_certificate(settings["certificate"].encode())
        except ValueError:
            raise refused("failed to parse certificate") from None
        self._roles[name] = _Role(settings=settings, authority=authority)
        self._core.logins.on_client_authority(settings["certificate"])

    def _delete(self, _request: Request, fields: Fields) -> None:
        self._roles.pop(fields.text("name").lower(), None)

    def _login(self, request: Request, fields: Fields) -> Reply:
        if request.certificate is None:
            # vault: ``pathLoginAliasLookahead`` comes first.
            raise ApiError(
                500, "no client certificate found" if self._core.logins.over_tls else "tls connection not found"
            )
        certificate = x509.load_der_x509_certificate(request.certificate)
        name, role = self._matching(certificate, fields.text("name").lower())
        if not in_networks(request.remote_address, role.settings["token_bound_cidrs"]):
            raise denied()
        common = next(iter(_names(certificate)["allowed_common_names"]), "")
        auth = grant(
            role.settings,
            display_name=role.settings["display_name"],
            metadata={
                "cert_name": name,
                "common_name": common,
                "serial_number": str(certificate.serial_number),
                **_key_identifiers(certificate),
            },
            entity_id=self._core.logins.entity_id(request.mount_point, common),
            internal={"role": name, "certificate": request.certificate},
        )
        return Reply(auth=auth)

    def _matching(self, certificate: x509.Certificate, wanted: str) -> tuple[str, _Role]:
        """
        Return the first role, or the one called *wanted*, that trusts and admits *certificate*.
        """
        trusting = [
            (name, role)
            for name, role in self._roles.items()
            if wanted in ("", name) and role.trusts(certificate) and _is_valid(certificate, self._core.clock.now())
        ]
        if not trusting:
            raise refused("invalid certificate or no client certificate supplied")
        for name, role in trusting:
            if role.admits(certificate):
                return name, role
        raise refused("no chain matching all constraints could be found for this login certificate")


def _is_valid(certificate: x509.Certificate, now: float) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp() <= now <= end.timestamp()


def _names(certificate: x509.Certificate) -> dict[str, list[str]]:
    """
    Return the names in *certificate*, by the constraints that they are held against.
    """
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        others = x509.SubjectAlternativeName([])
    subject = certificate.subject
    units = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return {
        "allowed_common_names": [str(one.value) for one in subject.get_attributes_for_oid(NameOID.COMMON_NAME)],
        "allowed_dns_sans": others.get_values_for_type(x509.DNSName),
        "allowed_email_sans": others.get_values_for_type(x509.RFC822Name),
        "allowed_uri_sans": others.get_values_for_type(x509.UniformResourceIdentifier),
        "allowed_organizational_units": [str(one.value) for one in units],
    }


def _key_identifiers(certificate: x509.Certificate) -> dict[str, str]:
    found = {"subject_key_id": b"", "authority_key_id": b""}
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            found["subject_key_id"] = extension.value.digest
        elif isinstance(extension.value, x509.AuthorityKeyIdentifier):
            found["authority_key_id"] = extension.value.key_identifier or b""
    return {name: value.hex(":") for name, value in found.items()}
