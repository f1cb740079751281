"""
``/devserver/faults``: faults injected over HTTP, for tests whose server is another process. No fault is met here.

========  =======================  =====================================================================================
POST      /devserver/faults        inject the fault of the JSON body, ``{"fault": "slow", "path": "database/creds", …}``
GET       /devserver/faults[/ID]   show what is in force, and how many requests met it
DELETE    /devserver/faults[/ID]   end it
========  =======================  =====================================================================================

All need a root token. Bad input is a 400 that names the setting.
"""

from __future__ import annotations

import json
from typing import Any, Final

from vault_pool.devserver.core import Core
from vault_pool.devserver.errors import ApiError, denied_by_policy, not_found, refused
from vault_pool.devserver.exchange import HttpRequest, HttpResponse
from vault_pool.devserver.faults import Faults, check

ROOT: Final = "/devserver/"
_FAULTS: Final = "/devserver/faults"


class FaultPaths:
    """
    The paths. Thread-safe.
    """

    def __init__(self, core: Core, faults: Faults) -> None:
        self._core = core
        self._faults = faults

    def answer(self, request: HttpRequest) -> HttpResponse:
        """
        Answer a request whose path begins with `ROOT`.
        """
        try:
            status, body = self._answer(request)
        except ApiError as error:
            status, body = error.status, {"errors": list(error.errors)}
        return HttpResponse(status=status, body=body, headers={"Content-Type": "application/json"})

    def _answer(self, request: HttpRequest) -> tuple[int, Any]:
        entry = self._core.tokens.lookup(request.token)
        if entry is None or "root" not in entry.policies:
            raise denied_by_policy()
        path, _, number = request.path.removesuffix("/").partition(f"{_FAULTS}/")
        if path not in ("", _FAULTS) or (not path and not number):
            raise not_found()
        found = [one for one in self._faults.all() if number in ("", str(one.number))]
        if number and not found:
            raise not_found()
        if request.method in {"POST", "PUT"} and not number:
            return 200, self._inject(request.body)
        if request.method == "DELETE":
            for injection in found:
                injection.end()
            return 204, None
        if request.method != "GET":
            raise ApiError(405)
        return 200, found[0].show() if number else {"faults": [one.show() for one in found]}

    def _inject(self, body: bytes) -> dict[str, Any]:
        try:
            settings = json.loads(body)
            kind = settings.pop("fault", "")
        except (ValueError, AttributeError, TypeError):
            raise refused('the body is not a JSON object with a "fault"') from None
        try:
            fault = check(str(kind), **settings)
        except ValueError as error:
            raise refused(str(error)) from None
        return self._faults.inject(fault).show()
