"""Uploads that devices have begun: who may put which file where, until when (hub specification 7.3).

Rules: a device has at most ten open; each is good for an hour and ends with its notification. The secret in its address
is kept as a hash only: whoever reads the database cannot upload.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from edgetrust.limits import UPLOAD_SECONDS, UPLOADS_PER_DEVICE
from edgetrust.pki.keys import SecretText
from edgetrust.store.engine import Database
from edgetrust.store.records import RegistryError, milliseconds
from edgetrust.store.schema import uploads

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload: its identifier, whose it is, and the name that the device gave the file."""

    correlation: str
    device: str
    blob: str


class Uploads:
    """Methods raise the store's errors; `now` decides what is over."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, device: str, blob: str, now: datetime) -> tuple[Upload, SecretText]:
        """A new upload and its secret. RegistryError 403 when too many are open."""
        upload, secret = Upload(str(uuid.uuid4()), device, blob), secrets.token_urlsafe(_SECRET_BYTES)
        now_ms = milliseconds(now)
        row = {
            "correlation": upload.correlation,
            "device": device,
            "blob": blob,
            "secret_sha256": _hash(secret),
            "expires_ms": now_ms + int(UPLOAD_SECONDS * 1000),
        }
        open_now = select(func.count()).where(uploads.c.device == device, uploads.c.expires_ms > now_ms)

        def work(connection: Connection) -> None:
            if connection.execute(open_now).scalar_one() >= UPLOADS_PER_DEVICE:
                raise RegistryError(
                    f"{UPLOADS_PER_DEVICE} uploads of {device} are open",
                    code="DeviceMaximumActiveFileUploadLimitExceeded",
                    status=403,
                    fix="notify the hub of those that are done",
                )
            connection.execute(insert(uploads), row)

        await self._database.write(work)
        return upload, SecretText(secret)

    async def find(self, correlation: str, secret: str, now: datetime) -> Upload | None:
        """The upload, if it is open and this is its secret."""
        row = await self._row(correlation)
        if row is None or row.expires_ms <= milliseconds(now):
            return None
        if not hmac.compare_digest(row.secret_sha256, _hash(secret)):
            return None
        return Upload(row.correlation, row.device, row.blob)

    async def end(self, correlation: str, device: str, now: datetime) -> Upload:
        """The device says that it is done, one way or the other. RegistryError 400 for what is not its own, or over."""
        row = await self._row(correlation)
        if row is None or row.device != device:
            detail = "no upload of this device has this correlationId"
            raise RegistryError(detail, code="InvalidFileUploadCorrelationId", status=400)
        await self._database.write(
            lambda connection: connection.execute(delete(uploads).where(uploads.c.correlation == correlation)).close()
        )
        if row.expires_ms <= milliseconds(now):
            detail = "the upload was not notified in time"
            raise RegistryError(detail, code="ExpiredFileUploadCorrelationId", status=400)
        return Upload(row.correlation, row.device, row.blob)

    async def forget_expired(self, now: datetime) -> tuple[str, ...]:
        """Forget what is over; returns the correlations."""
        old = delete(uploads).where(uploads.c.expires_ms <= milliseconds(now)).returning(uploads.c.correlation)
        return await self._database.write(lambda connection: tuple(connection.execute(old).scalars()))

    async def _row(self, correlation: str) -> _Row | None:
        query = select(uploads).where(uploads.c.correlation == correlation)

        def work(connection: Connection) -> _Row | None:
            row = connection.execute(query).first()
            return None if row is None else _Row(*row)

        return await self._database.read(work)


@dataclass(frozen=True, slots=True)
class _Row:
    correlation: str
    device: str
    blob: str
    secret_sha256: str
    expires_ms: int


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
