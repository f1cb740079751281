"""
Policies, and what a set of them allows.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vault_pool.devserver.errors import wrapped
from vault_pool.devserver.hcl import Block, HclError, parse
from vault_pool.devserver.values import show_time

CAPABILITIES: Final = ("create", "delete", "list", "patch", "read", "sudo", "update")
_LEGACY: Final[Mapping[str, tuple[str, ...]]] = {
    "deny": ("deny",),
    "read": ("read", "list"),
    "write": ("create", "read", "update", "delete", "list"),
    "sudo": ("create", "read", "update", "delete", "list", "sudo"),
}
_READ, _UPDATE = ("read",), ("update",)
# vault: the policy that every token has unless it was made with no_default_policy.
_DEFAULT_RULES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("auth/token/lookup-self", _READ),
    ("auth/token/renew-self", _UPDATE),
    ("auth/token/revoke-self", _UPDATE),
    ("sys/capabilities-self", _UPDATE),
    ("identity/entity/id/{{identity.entity.id}}", _READ),
    ("identity/entity/name/{{identity.entity.name}}", _READ),
    ("sys/internal/ui/resultant-acl", _READ),
    ("sys/leases/renew", _UPDATE),
    ("sys/leases/lookup", _UPDATE),
    ("cubbyhole/*", ("create", "read", "update", "delete", "list")),
    ("sys/wrapping/wrap", _UPDATE),
    ("sys/wrapping/lookup", _UPDATE),
    ("sys/wrapping/unwrap", _UPDATE),
    ("sys/tools/hash", _UPDATE),
    ("sys/tools/hash/*", _UPDATE),
    ("identity/oidc/provider/+/authorize", ("read", "update")),
)
_VAULT_ONLY_RULES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("sys/renew", _UPDATE),
    ("sys/control-group/request", _UPDATE),
)


def default_policy(*, openbao: bool) -> str:
    """
    Return the text of the policy `default`.
    """
    rules = _DEFAULT_RULES if openbao else _DEFAULT_RULES + _VAULT_ONLY_RULES
    return "\n".join(
        f'path "{path}" {{\n    capabilities = [{", ".join(f"{name!r}" for name in names)}]\n}}\n'.replace("'", '"')
        for path, names in rules
    )


@dataclass(slots=True, kw_only=True)
class Rule:
    """
    What one path of a policy grants.
    """

    capabilities: set[str] = field(default_factory=set)
    allowed: dict[str, list[Any]] = field(default_factory=dict)
    denied: dict[str, list[Any]] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)

    def merge(self, other: Rule) -> None:
        """
        Add what *other*, for the same path in another policy, grants; deny wins.
        """
        # No restriction in one policy lifts that of the other.
        self.allowed = {**self.allowed, **other.allowed} if self.allowed and other.allowed else {}
        self.denied = self.denied | other.denied
        self.required = self.required | other.required
        self.capabilities = self.capabilities | other.capabilities

    def permits(self, data: Mapping[str, Any]) -> bool:
        """
        Tell whether the parameters of a write are allowed.
        """
        if not self.required <= data.keys():
            return False
        if any(_listed(self.denied, name, value) for name, value in data.items()):
            return False
        return not self.allowed or all(_listed(self.allowed, name, value) for name, value in data.items())


def _listed(parameters: Mapping[str, list[Any]], name: str, value: Any) -> bool:
    allowed = parameters.get(name.lower(), parameters.get("*"))
    if allowed is None:
        return False
    return not allowed or any(
        value == one or (isinstance(value, str) and isinstance(one, str) and fnmatch.fnmatchcase(value, one))
        for one in allowed
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    A named policy as it was written; *modified* is None for the ones that are built in.
    """

    name: str
    text: str = field(repr=False)
    rules: Mapping[str, Rule] = field(default_factory=dict, repr=False)
    modified: float | None = None

    def show(self, *, openbao: bool) -> dict[str, Any]:
        """
        Return what a read of the policy shows.
        """
        shown: dict[str, Any] = {"name": self.name, "policy": self.text}
        if openbao:
            shown |= {"cas_required": False, "version": 0 if self.name == "root" else 1}
            if self.modified is not None:
                shown["modified"] = show_time(self.modified)
        return shown


def parse_policy(name: str, text: str, *, modified: float | None = None) -> Policy:
    """
    Return the policy; raise HclError with Vault's text if it is none.
    """
    rules: dict[str, Rule] = {}
    for block in parse(text).blocks:
        if block.kind != "path":
            raise HclError(wrapped(f'invalid key "{block.kind}" on line 0'))
        rule = _rule(block)
        known = rules.setdefault(block.label.lstrip("/"), rule)
        if known is not rule:
            known.merge(rule)
    return Policy(name=name, text=text, rules=rules, modified=modified)


def _rule(block: Block) -> Rule:
    names = block.attributes.get("capabilities", [])
    legacy = block.attributes.get("policy")
    if legacy is not None:
        names = [*names, *_LEGACY.get(legacy, ())]
    for name in names:
        if name not in {*CAPABILITIES, "deny"}:
            raise HclError(f'path "{block.label}": invalid capability "{name}"')
    parameters = {inner.kind: inner.attributes for inner in block.blocks}
    parameters |= {name: value for name, value in block.attributes.items() if isinstance(value, dict)}
    return Rule(
        capabilities=set(names),
        allowed={name.lower(): value for name, value in parameters.get("allowed_parameters", {}).items()},
        denied={name.lower(): value for name, value in parameters.get("denied_parameters", {}).items()},
        required=set(block.attributes.get("required_parameters", [])),
    )


class Acl:
    """
    What a set of policies allows together.

    vault: an exact path wins; otherwise the pattern with the higher priority, by the rules of the documentation's
    "Policies: priority matching".
    """

    def __init__(self, policies: Iterable[Policy], *, entity_id: str = "") -> None:
        self.root = False
        self._rules: dict[str, Rule] = {}
        for policy in policies:
            self.root = self.root or policy.name == "root"
            for path, rule in policy.rules.items():
                filled = path.replace("{{identity.entity.id}}", entity_id) if entity_id else path
                if "{{" in filled:
                    continue
                if filled in self._rules:
                    self._rules[filled].merge(rule)
                else:
                    self._rules[filled] = replace(rule)

    def rule(self, path: str) -> Rule | None:
        """
        Return the rule that decides about *path*.
        """
        for exact in (path, path.removesuffix("/")):
            if exact in self._rules:
                return self._rules[exact]
        patterns = [pattern for pattern in self._rules if _matches(pattern, path)]
        return self._rules[max(patterns, key=_priority)] if patterns else None

    def capabilities(self, path: str) -> list[str]:
        """
        Return the names of what is allowed on *path*, as `sys/capabilities` lists them.
        """
        if self.root:
            return ["root"]
        rule = self.rule(path)
        if rule is None or not rule.capabilities or "deny" in rule.capabilities:
            return ["deny"]
        return sorted(rule.capabilities)

    def touches(self, mount_point: str) -> bool:
        """
        Tell whether anything at or below *mount_point* is allowed. vault: ``hasMountAccess``.
        """
        if self.capabilities(mount_point) != ["deny"]:
            return True
        granted = [path for path, rule in self._rules.items() if rule.capabilities and "deny" not in rule.capabilities]
        return any(path.startswith(mount_point) or _matches(path, mount_point) for path in granted)

    def allows(self, operation: str, path: str, data: Mapping[str, Any], *, sudo: bool) -> bool:
        """
        Tell whether *operation* on *path* with the parameters *data* is allowed.
        """
        if self.root:
            return True
        granted = self.capabilities(path)
        if operation not in granted or (sudo and "sudo" not in granted):
            return False
        rule = self.rule(path)
        return rule is not None and (operation not in {"create", "update", "patch"} or rule.permits(data))


def _matches(pattern: str, path: str) -> bool:
    if "+" not in pattern:
        return pattern.endswith("*") and path.startswith(pattern[:-1])
    want, have = pattern.removesuffix("*").split("/"), path.split("/")
    if pattern.endswith("*"):
        # The glob lets the last segment go on, also over slashes.
        last = len(want) - 1
        if len(have) <= last or not have[last].startswith(want[last]):
            return False
        want, have = want[:last], have[:last]
    return len(want) == len(have) and all(one in ("+", other) for one, other in zip(want, have, strict=True))


def _priority(pattern: str) -> tuple[int, bool, int, int, str]:
    first = min(position for position in (pattern.find("+"), pattern.find("*"), len(pattern)) if position >= 0)
    return (first, not pattern.endswith("*"), -pattern.split("/").count("+"), len(pattern), pattern)
