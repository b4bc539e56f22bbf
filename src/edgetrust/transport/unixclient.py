"""Requests to a service on a unix socket: one connection each, JSON both ways, blocking.

Callers are threads: a service of the same machine answers in milliseconds, and what waits for one is not the event
loop. A service that is being restarted is waited for a moment. Must not know routes.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from edgetrust.errors import UnavailableError
from edgetrust.limits import SERVICE_CALL_SECONDS, SERVICE_PAUSE_SECONDS
from edgetrust.transport.unix import address_of


class UnixClient:
    """Requests to one service. `name` is for errors: "the key service"."""

    def __init__(self, path: Path, name: str, api_version: str) -> None:
        self.path = path
        self.name = name
        self._api_version = api_version

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = SERVICE_CALL_SECONDS,
    ) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of the answer, empty when there is none. Raises UnavailableError."""
        asked = f"{path}?{urlencode({**(query or {}), 'api-version': self._api_version})}"
        try:
            return self._once(method, asked, body, timeout)
        except (OSError, http.client.HTTPException):
            time.sleep(SERVICE_PAUSE_SECONDS)  # it is being restarted, or has too many of our requests at once
        try:
            return self._once(method, asked, body, timeout)
        except (OSError, http.client.HTTPException) as problem:
            raise UnavailableError(
                f"{self.name} does not answer on {self.path}: {problem}",
                reason="service-unavailable",
                fix=f"start {self.name}, or see its log",
            ) from problem

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float
    ) -> tuple[int, dict[str, Any]]:
        connection = _Connection(self.path, timeout)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        try:
            answered = json.loads(content) if content else {}
        except ValueError as problem:
            raise http.client.HTTPException("the answer is not JSON") from problem
        return response.status, answered if isinstance(answered, dict) else {}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address_of(self._path) as address:
            self.sock.connect(address)
