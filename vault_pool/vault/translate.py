"""
From every failure of a request to one of this library's errors: the one place that reads Vault's texts.

Rule 1: the status decides; a text is read only where Vault gives one status to things that need different answers.
Rule 2: an error says what to do about it, names the path and the setting, and holds nothing of the failed call.

The texts were compared with the sources of OpenBao 2.5 and Vault 1.14; newer ones are told by their common words.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime

from vault_pool.errors import LeaseLost, VaultDenied, VaultError, VaultRefused, VaultUnavailable, fold

#: The lease is no more, or its database role is not.
_GONE = ("lease not found", "invalid lease", "lease expired", "lease is expired", "does not exist (sqlstate 42704)")
#: The lease lives on to its end, but nothing will move that end.
_NO_MORE_TIME = (
    "lease is not renewable",
    "past the max ttl",
    "could not find role",
    "batch tokens cannot",
    "token not found",
    "invalid lease id",
)
#: 500 for what trying again does not change.
_LASTING = (
    "failed to find entry for connection",
    "empty creation statements",
    "policies have changed",
    "does not exist during renewal",
    "past the max ttl",
    "not matching client identity used during login",
)
#: Vault refused before it did anything, though the status alone does not say so.
_NOTHING_DONE = ("is sealed", "no active vault instance", "active cluster node not found", "quota exceeded")

#: What vouches for a login (a directory, Kubernetes, an issuer's keys) could not be reached: nobody was refused.
_UNREACHED = ("error connecting to host", "network error", "dial tcp", "connection refused", "i/o timeout")
#: A node that cannot do it: secondary for disaster recovery, performance standby, standby without an active node, and
#: removed (Vault API documentation, "/sys/health").
_NOT_ACTIVE = (472, 473, 474, 530)

_CAPABILITIES = {"GET": "read", "LIST": "list", "DELETE": "delete"}
_QUOTA_PAUSE = 1.0
# Whatever a proxy says: the pool has to recover by itself.
_LONGEST_PAUSE = 600.0


# --- Answers that are refusals -----------------------------------------------------------------------------


def refusal(method: str, path: str, status: int, texts: Sequence[str] | None, headers: Mapping[str, str]) -> VaultError:
    """
    Return the error for an answer of *status* whose ``errors`` were *texts*, None where the body was not Vault's.
    """
    if texts is None and status < 500 and status not in _NOT_ACTIVE and status not in (412, 429):
        return malformed(method, path, status)
    said = fold("; ".join(texts or ()) or "no reason given")
    story, text = f"Vault answered {status} to {method} {path}: {said}", said.lower()
    if status == 429:
        pause = _retry_after(headers)
        pause = _QUOTA_PAUSE if pause is None else pause
        return VaultUnavailable(story, status=status, created_nothing=True, retry_after=pause)
    if status >= 500 or status == 412 or status in _NOT_ACTIVE:
        return _troubled(story, text, path, status, headers)
    forbidden = _forbidden(method, path, status, story, text) if status in (400, 403) else None
    return forbidden or _refused(story, text, path, status)


def _forbidden(method: str, path: str, status: int, story: str, text: str) -> VaultError | None:
    if path.startswith("auth/") and "/login" in path:
        if any(words in text for words in _UNREACHED):
            return VaultUnavailable(f"{story}: Vault could not ask whom it has to ask", status=status)
        return VaultDenied(f"{story}: the login was refused, or is locked out after too many", status=status)
    if "token had one use left" in text:
        return VaultDenied(f"{story}: the token has no uses left", status=status, token_dead=True)
    if status == 403:
        # A dead token gets the bare text, a policy the same words behind the head of a list; Vault 1.17 and later
        # say "invalid token" besides. It is a hint only: whoever needs to be sure looks the token up.
        return denied(method, path, dead="invalid token" in text or "1 error occurred" not in text)
    return None


def denied(method: str, path: str, *, dead: bool) -> VaultDenied:
    """
    Return the error for a 403: of a *dead* token, or else of a policy, with the line that the policy lacks.
    """
    story = f"Vault answered 403 to {method} {path}"
    if dead:
        return VaultDenied(f"{story}: the token has ended, was revoked, or is unknown to this Vault", token_dead=True)
    capability = _CAPABILITIES.get(method, "update")
    return VaultDenied(
        f"{story}: the token's policies lack the capability {capability!r} for it; add to one of them: "
        f'path "{path}" {{ capabilities = ["{capability}"] }}'
    )


def malformed(method: str, path: str, status: int) -> VaultError:
    """
    Return the error for a success whose body is not the JSON that Vault sends.
    """
    return VaultUnavailable(
        f"the answer {status} to {method} {path} is not Vault's JSON: is there a proxy, or another server?",
        status=status,
    )


def lacking(method: str, path: str, status: int, what: str) -> VaultError:
    """
    Return the error for a success that came without *what* was asked for.
    """
    return VaultUnavailable(f"Vault answered {status} to {method} {path}, but without {what}", status=status)


def not_followed(method: str, path: str, status: int, host: str) -> VaultError:
    """
    Return the error for a redirect to *host* that would carry the token where it should not go, or nowhere.
    """
    return VaultUnavailable(
        f"Vault redirected {method} {path} to {host}, which is not followed: only one redirect is, to the same path "
        "on another host and never from https to http; give the address of the active node, or of the load balancer",
        status=status,
        created_nothing=True,
    )


def _troubled(story: str, text: str, path: str, status: int, headers: Mapping[str, str]) -> VaultError:
    if "is not an allowed role" in text:
        mount_point, _, role = path.partition("/creds/")
        return VaultRefused(
            f"{story}: add {role!r} to allowed_roles of the connection under {mount_point}/config/", status=status
        )
    if any(words in text for words in _LASTING):
        return VaultRefused(story, status=status)
    if "storage is read-only" in text:
        story = f"{story}: a standby did half of it; give the address of the active node"
    nothing = status == 412 or status in _NOT_ACTIVE or any(words in text for words in _NOTHING_DONE)
    return VaultUnavailable(story, status=status, created_nothing=nothing, retry_after=_retry_after(headers))


def _refused(story: str, text: str, path: str, status: int) -> VaultError:
    if status == 404 and "namespace not found" in text:
        story = f"{story}: check the setting namespace (VAULT_NAMESPACE)"
    elif status == 404:
        mount_point = path.partition("/creds/")[0]
        story = f"{story}: is {mount_point!r} the right mount_point, and in this namespace?"
    elif "unknown role" in text:
        mount_point, _, role = path.partition("/creds/")
        story = f"{story}: there is no {mount_point}/roles/{role}"
    elif path.startswith(("sys/leases/", "auth/token/")):
        return _not_prolonged(story, text, status)
    return VaultRefused(story, status=status)


def _not_prolonged(story: str, text: str, status: int) -> VaultError:
    # The order matters: "invalid lease ID" is said of a token without a lease, "invalid lease" of a lost one.
    if any(words in text for words in _NO_MORE_TIME):
        return VaultRefused(f"{story}: renewing it is over", status=status)
    if any(words in text for words in _GONE):
        return LeaseLost(story, status=status)
    if "failed to renew entry" in text or "failed to revoke entry" in text:
        # The database is down, or says no (2BP01 while the last session exits): 400 all the same.
        return VaultUnavailable(story, status=status)
    return VaultRefused(story, status=status)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """
    Return the seconds for which Vault, or what stands before it, asks to be left alone; None where it does not say.

    A date counts from the ``Date`` of the same answer: clocks differ (RFC 9110, 10.2.3).
    """
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return min(float(value), _LONGEST_PAUSE)
    try:
        pause = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):  # one of them is none, or only one of them has a zone
        return None
    return min(max(0.0, pause.total_seconds()), _LONGEST_PAUSE)


# --- Requests without an answer ----------------------------------------------------------------------------


def unanswered(method: str, path: str, address: str, timeout: float, cause: Exception) -> VaultError:
    """
    Return the error for a request that *cause* ended. Nothing of *cause* but its kind and errno goes into it.

    Its own text may quote a header or a proxy's password, its frames hold the token.
    """
    import requests  # noqa: PLC0415 - loaded with hvac, late
    import urllib3.exceptions  # noqa: PLC0415 - the same

    causes = list(_chain(cause))
    story = f"no answer from Vault at {address} to {method} {path}"
    # urllib3 before 2.0 compares the names itself, and has an error of its own for them.
    if any(isinstance(each, ssl.SSLCertVerificationError) or "CertificateError" in str(type(each)) for each in causes):
        return VaultUnavailable(
            f"{story}: its TLS certificate is not trusted{_verification(causes)}; "
            "name the right CA file in verify (VAULT_CACERT)",
            retryable=False,
            created_nothing=True,
        )
    if isinstance(cause, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError)):
        return VaultUnavailable(
            f"{story}: the address (VAULT_ADDR), the namespace or the token cannot be sent",
            retryable=False,
            created_nothing=True,
        )
    unconnected = (
        urllib3.exceptions.NewConnectionError,
        urllib3.exceptions.ConnectTimeoutError,
        urllib3.exceptions.ClosedPoolError,
        socket.gaierror,
    )
    nothing = any(isinstance(each, unconnected) or _no_tunnel(each) for each in causes)
    if isinstance(cause, requests.ConnectTimeout):
        return VaultUnavailable(f"{story}: no connection within {timeout:g} s", created_nothing=True)
    if isinstance(cause, requests.Timeout):
        return VaultUnavailable(f"{story} within {timeout:g} s; it may have been carried out all the same")
    return VaultUnavailable(f"{story}: {_reason(causes)}", created_nothing=nothing)


def is_tls(cause: Exception) -> bool:
    """
    Return whether a request failed for reasons of TLS.
    """
    return any(isinstance(each, ssl.SSLError) for each in _chain(cause))


def _no_tunnel(cause: BaseException) -> bool:
    return isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed")


def _chain(cause: BaseException) -> Iterator[BaseException]:
    """
    Yield *cause* and what lies behind it; requests and urllib3 pass the true reason as an argument or an attribute.
    """
    seen: set[int] = set()
    todo: list[object] = [cause]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]


def _verification(causes: Sequence[BaseException]) -> str:
    texts = [each.verify_message for each in causes if isinstance(each, ssl.SSLCertVerificationError)]
    return f" ({texts[0]})" if texts and texts[0] else ""


def _reason(causes: Sequence[BaseException]) -> str:
    for each in causes:
        if isinstance(each, socket.gaierror):
            return "its name is not known (DNS)"
    for each in causes:
        if _no_tunnel(each):
            return f"the proxy refused ({fold(each)}); see proxy (VAULT_PROXY_ADDR, HTTPS_PROXY)"
        if isinstance(each, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (each.reason or ""):
            return "it demands a client certificate; name one in cert (VAULT_CLIENT_CERT, VAULT_CLIENT_KEY)"
        if isinstance(each, ssl.SSLError):  # its errno is none
            return f"TLS failed ({each.reason or type(each).__name__})"
    for each in causes:
        if isinstance(each, OSError) and each.errno is not None and each.errno in errno.errorcode:
            return f"{each.strerror} ({errno.errorcode[each.errno]})"
    return f"the connection broke ({type(causes[-1]).__name__})"
