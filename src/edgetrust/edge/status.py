"""The state file of a running gateway: what runs, whether the hub is there, what waits, what expires.

One JSON object, replaced in one step when its content changes; anybody who may enter the directory may read it, so
nothing secret stands in it. `edgetrust edge status` prints it; whether the process still lives is checked by who
reads. The last refusals are not in it: they are read from the gateway's store.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from edgetrust.edge.files import Layout, read_file
from edgetrust.edge.upkeep import Renewing
from edgetrust.errors import ConfigError, UnavailableError
from edgetrust.pki.chain import Chain
from edgetrust.pki.renewal import AutoRenew
from edgetrust.pki.softkeys import write_public
from edgetrust.store.audit import AuditTrail
from edgetrust.store.engine import Database
from edgetrust.transport.unix import address_of
from edgetrust.trust.audit import refusal_entry


class StateFile:
    """Writes the state when it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""
        self._ended = False
        self._one_at_a_time = threading.Lock()  # a writing thread may outlive the task that started it

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file, unless it says the same already."""
        content = json.dumps(state, indent=2, sort_keys=True, default=_text).encode() + b"\n"
        with self._one_at_a_time:
            if content != self._written and not self._ended:
                write_public(self._path, content)
                self._written = content

    def remove(self) -> None:
        """The gateway has ended in order; nothing is written any more."""
        with self._one_at_a_time:
            self._ended = True
            self._path.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """The state that a gateway wrote. Raises UnavailableError when none runs below this root."""
    try:
        state = json.loads(read_file(path))
    except ConfigError as problem:
        if problem.reason != "config-missing-file":
            raise
        message = f"no gateway runs here: {path} does not exist"
        raise UnavailableError(message, reason="gateway-not-running", fix="edgetrust edge serve") from problem
    except ValueError as problem:
        raise UnavailableError(f"{path} is no state file", reason="gateway-not-running") from problem
    return dict(state)


def services_of(layout: Layout) -> dict[str, bool]:
    """Whether each service below a root takes connections."""
    return {name: _takes_connections(layout.socket(name)) for name in ("keyd", "certd", "identityd")}


def _takes_connections(path: Path) -> bool:
    try:
        with address_of(path) as address, socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            return probe.connect_ex(address) == 0
    except OSError:
        return False


def last_refusals(database_file: Path, limit: int) -> list[dict[str, Any]]:
    """The newest refusals first, also while the gateway runs. Raises UnavailableError when there was never one here."""
    if not database_file.exists():
        message = f"no gateway has run here: {database_file} does not exist"
        raise UnavailableError(message, reason="gateway-not-running", fix="edgetrust edge serve")
    return asyncio.run(_refusals(f"sqlite:///{database_file.absolute()}", limit))


async def _refusals(url: str, limit: int) -> list[dict[str, Any]]:
    database = Database(url)
    try:
        return [refusal_entry(record) for record in await AuditTrail(database).refusals(limit)]
    finally:
        await database.close()


def describe_certificate(
    certificate_id: str, path: Path, chain: Chain, now: datetime, renewing: Renewing | None = None
) -> dict[str, Any]:
    """A certificate in the state file. `auto_renew` is null when it does not renew itself."""
    leaf = chain.end_entity
    return {
        "auto_renew": None if renewing is None else _policy(renewing.policy),
        "renewal": None if renewing is None else asdict(renewing.state),
        "id": certificate_id,
        "file": str(path),
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "thumbprint": chain.thumbprint().hex(),
        "valid_from": leaf.not_valid_before_utc,
        "expires_at": leaf.not_valid_after_utc,
        "expired": leaf.not_valid_after_utc <= now,
    }


def _policy(policy: AutoRenew) -> dict[str, Any]:
    return {"rotate_key": policy.rotate_key, "threshold": str(policy.threshold), "retry": str(policy.retry)}


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
