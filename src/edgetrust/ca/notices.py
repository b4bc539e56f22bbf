"""Tells a web service which certificates end soon: what `edgetrust ca forecast --json` shows, by POST.

Rules. Each end is told once by a process, when it comes within the days that were set; a restart tells anew, so that
nothing is lost that a service has forgotten. What the service does not take is told again at the next look. It is
reached by HTTPS, verified, or by HTTP on this machine; redirections are not followed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import aiohttp

from edgetrust import limits
from edgetrust.ca.forecast import Ending, within
from edgetrust.ca.settings import Webhook
from edgetrust.errors import UnavailableError
from edgetrust.transport.http import https_session

_RECEIVED_BELOW: Final = 300


def as_data(one: Ending) -> dict[str, Any]:
    """An end as it is printed and told."""
    return {
        "kind": one.kind,
        "name": one.name,
        "authority": one.authority,
        "serial": one.serial,
        "notAfter": f"{one.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "toDo": one.to_do or None,
    }


@dataclass(slots=True)
class Notices:
    """What one process has told."""

    webhook: Webhook
    _told: set[Ending] = field(default_factory=set)

    async def tell(self, endings: Sequence[Ending], now: datetime) -> int:
        """Tell what is new; how many that were. UnavailableError (`forecast-webhook`): they are told the next time."""
        soon = within(endings, now, self.webhook.days)
        new = [one for one in soon if one not in self._told]
        if new:
            await self._post({"days": self.webhook.days, "endings": [as_data(one) for one in new]})
        self._told = set(soon)  # what was renewed is forgotten
        return len(new)

    async def _post(self, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        if self.webhook.authorization is not None:
            headers["Authorization"] = self.webhook.authorization.reveal()
        try:
            async with (
                https_session(self.webhook.bundle, timeout=limits.ROUTE_TIMEOUT_SECONDS) as session,
                session.post(self.webhook.url, data=json.dumps(body), headers=headers, allow_redirects=False) as answer,
            ):
                problem = "" if answer.status < _RECEIVED_BELOW else f"it answered {answer.status}"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
        if problem:
            raise UnavailableError(
                f"{self.webhook.url} was not told what ends: {problem}",
                reason="forecast-webhook",
                fix="see that the service runs, and that its certificate is for this name and below forecast.ca",
            )
