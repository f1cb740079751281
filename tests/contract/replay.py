"""
Replaying recorded scenarios: line by line, in their own time, and what differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.contract.exceptions import KNOWN
from tests.contract.jwts import tokens_of_jwt
from tests.contract.matching import Bindings, Difference, odd_shapes
from tests.contract.recording import Scenario, whole_body
from tests.contract.servers import Target, send, target
from tests.contract.world import World
from vault_pool.devserver.postgres import EmbeddedPostgres

# The headers that were recorded, where they were sent.
_HEADERS = {
    "cache-control",
    "content-type",
    "location",
    "retry-after",
    "strict-transport-security",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-vault-inline-auth-failed",
    "x-vault-namespace",
}
_WRITES_OF_LATE = 2.0
_LATE, _TOO_LATE = 0.1, 0.3
# A revocation in the background that failed is tried again after 20 s ± 50 %.
_QUEUE = 32.0


class Finding(NamedTuple):
    """What differed in one line; *reason* is set where that is known."""

    line: dict[str, Any]
    differences: list[Difference]
    reason: str

    def __str__(self) -> str:
        request = self.line.get("request", {})
        what = f"{request['method']} {request['path']}" if request else self.line["kind"]
        shown = [f"{self.line['id']}: {what}" + (f"  (known: {self.reason})" if self.reason else "")]
        for place, recorded, actual in self.differences:
            shown.append(f"    {place}\n      recorded: {_short(recorded)}\n      here:     {_short(actual)}")
        return "\n".join(shown)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 600 else f"{text[:600]}…"


def replay(
    scenario: Scenario,
    postgres: EmbeddedPostgres,
    *,
    kind: str = "devserver",
    manual: bool = False,
) -> list[Finding]:
    """Replay *scenario* and return what differed; again when the machine was too slow to keep its time."""
    for last in (False, False, True):
        world = World(postgres)
        try:
            with target(kind, scenario.flavor, manual=manual) as server:
                run = _Replay(scenario, server, world)
                findings = list(run.findings())
        finally:
            world.close()
        if last or not run.late or all(one.reason for one in findings):
            break
    return findings


class _Replay:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, server: Target, world: World) -> None:
        self._scenario = scenario
        self._server = server
        self._world = world
        given = tokens_of_jwt() | {
            "<pg_port>": str(world.postgres.port),
            "<unseal key>": server.unseal_key,
            "<bogus token>": "s.bogus",
        }
        self._bound = Bindings(given, tolerance=0 if server.exact else 1)
        # The instant of `t` = 0; it moves when something took longer than it did in the recording.
        self._zero = math.nan
        self._begun, self._instant = 0.0, server.now()
        self.late = False
        # What the server sent to the database, from the last exchange that made it send anything.
        self._sent: tuple[set[str], list[str]] = (set(), [])
        self._kinds: dict[str, Callable[[dict[str, Any]], Iterator[Difference]]] = {
            "http": self._http,
            "login": self._login,
            "role": self._role,
            "sql": self._sql,
            "statements": self._statements,
            "wait": lambda _line: iter(()),
            "world": self._change_world,
        }

    def findings(self) -> Iterator[Finding]:
        for line in self._scenario.lines:
            self._wait(line)
            found = list(self._kinds[line["kind"]](line))
            if found:
                yield Finding(line, found, KNOWN.get((self._scenario.flavor, line["id"]), ""))

    def _wait(self, line: dict[str, Any]) -> None:
        """Wait for the instant of *line*, at the same fraction of a second as in the recording."""
        begun = line["t"] - (line.get("waited") or 0.0 if line["kind"] == "role" else 0.0)
        now = self._server.now()
        if math.isnan(self._zero):
            first = next(one for one in self._scenario.lines if "frac" in one)
            self._zero = _next_with(first["frac"], now) - first["t"]
        if begun < self._begun - 0.005 and "frac" in line:
            # Here the recording set its clock to 0, without a pause.
            self._zero = _next_with(line["frac"], self._instant) - begun
        instant = self._zero + begun
        if "frac" in line:
            instant = _nearest_with(line["frac"], instant)
        self.late = self.late or (now - instant > _LATE and not self._server.exact)
        if now - instant > _TOO_LATE:
            # Something took longer here; whole seconds keep the fraction.
            shift = math.ceil(now - instant)
            self._zero, instant = self._zero + shift, instant + shift
            self._bound.tolerance += 0 if self._server.exact else shift
        self._begun, self._instant = begun, instant
        self._server.advance(instant)

    def _http(self, line: dict[str, Any]) -> Iterator[Difference]:
        request, recorded = line["request"], line["response"]
        if line["id"] == "revocation_custom.norights.revoke":
            # The recorder did this, and did not note it down.
            self._world.execute("admin", "CREATE TABLE foreign_table (id int)")
        self._world.mark()
        answer = send(
            self._server.address,
            request["method"],
            self._bound.fill(request["path"]),
            self._bound.fill(request["headers"]),
            self._body(request["body"]),
        )
        sent = self._world.statements() if self._world.postgres.running else (set(), [])
        if sent[1]:
            self._sent = sent
        self._remember_password(answer.body)
        if answer.status != recorded["status"]:
            yield Difference("status", recorded["status"], answer.status)
            yield Difference("body", self._bound.fill(recorded["body"]), answer.body)
            return
        if answer.status is None:
            return
        yield from self._bound.differences(recorded["body"], answer.body)
        yield from odd_shapes(recorded.get("shapes") or {}, answer.body)
        known = {name.lower(): value for name, value in answer.headers.items() if name.lower() in _HEADERS}
        wanted = {name.lower(): value for name, value in recorded["headers"].items() if name.lower() in _HEADERS}
        yield from self._bound.differences(wanted, known, "headers")

    def _body(self, body: Any) -> bytes | None:
        if body is None:
            return None
        return (
            whole_body(self._bound.fill(body)) if isinstance(body, str) else json.dumps(self._bound.fill(body)).encode()
        )

    def _remember_password(self, body: Any) -> None:
        data = body.get("data") if isinstance(body, dict) else None
        if isinstance(data, dict) and isinstance(data.get("username"), str) and isinstance(data.get("password"), str):
            self._world.learn(data["username"], data["password"])

    def _login(self, line: dict[str, Any]) -> Iterator[Difference]:
        user = self._bound.fill(line["user"])
        mine = [one for one in self._scenario.lines if one["kind"] == "sql" and one["who"] == line["user"]]
        refusal = self._world.login(
            user,
            old_password=line["id"].endswith(".old_password"),
            transaction=any(one["statement"] == "COMMIT" for one in mine),
        )
        recorded = line["result"]
        if recorded == "accepted":
            if refusal:
                yield Difference("login", recorded, refusal)
        elif self._bound.fill(recorded["refused"]["message"]) not in refusal:
            yield Difference("login", recorded, refusal or "accepted")

    def _sql(self, line: dict[str, Any]) -> Iterator[Difference]:
        statement = line["statement"]
        if self._server.exact:
            # The clock that was set by hand is not PostgreSQL's.
            statement = statement.replace("now()", f"to_timestamp({self._server.now()})")
        result = self._world.execute(self._bound.fill(line["who"]), self._bound.fill(statement))
        if line["id"].endswith(".change_admin"):
            # The recorder ended them, too: an open session does not notice a new password.
            self._world.end_sessions_of_server()
        recorded = line["result"]
        if recorded == "accepted":
            if "error" in result:
                yield Difference("result", recorded, result)
            return
        if not self._world.messages_as_recorded and "error" in recorded and "error" in result:
            recorded, result = recorded["error"]["sqlstate"], result["error"]["sqlstate"]
        yield from self._bound.differences(recorded, result, "result")

    def _role(self, line: dict[str, Any]) -> Iterator[Difference]:
        """Look whether a role is there; where the recorder waited for its end, wait as well."""
        user, waited = self._bound.fill(line["user"]), line.get("waited") or 0.0
        if line["exists"]:
            self._server.advance(self._server.now() + waited)
            if not self._world.has_role(user):
                yield Difference("role exists", True, False)
            return
        if waited >= 1 and not self._world.has_role(user):
            yield Difference("role exists", f"for {waited} s more", False)
        begun = self._server.now()
        patience = waited + (_WRITES_OF_LATE if waited < 5 else _QUEUE)
        while self._world.has_role(user):
            if self._server.now() - begun > patience:
                yield Difference("role exists", False, f"still after {patience} s")
                return
            self._server.advance(self._server.now() + 0.05)

    def _statements(self, line: dict[str, Any]) -> Iterator[Difference]:
        names, sent = self._sent
        yield from self._bound.differences(line["statements"], sent, "statements")
        if names != set(line["application_name"]):
            yield Difference("application_name", line["application_name"], sorted(names))

    def _change_world(self, line: dict[str, Any]) -> Iterator[Difference]:
        what, _, whom = line["do"].partition(" ")
        if whom != "PostgreSQL" or what not in {"stop", "start", "restart"}:
            yield Difference("world", line["do"], "cannot be done here")
            return
        self._world.power(what)


def _next_with(fraction: float, instant: float) -> float:
    """Return the first instant with *fraction* that is not before *instant*."""
    return instant + (fraction - instant) % 1


def _nearest_with(fraction: float, instant: float) -> float:
    return round(instant - fraction) + fraction
