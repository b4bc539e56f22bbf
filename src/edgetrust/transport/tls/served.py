"""A server's certificate, taken from its files and taken again when they change, while serving.

Open connections keep what they began with. Files that cannot be used, or do not belong together (one was replaced and
the other not yet), are reported once for each change, and what is in use stays in use.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from edgetrust.config import read_text
from edgetrust.errors import ConfigError, Error
from edgetrust.pki.chain import Chain, ChainError
from edgetrust.pki.softkeys import load_key_file
from edgetrust.telemetry import EVENT_CERTIFICATE_NOT_TAKEN, EVENT_CERTIFICATE_TAKEN
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext

_Stamp = tuple[int, int] | None
_log = structlog.get_logger()


class ServedCertificate:
    """`slot` is what listeners use. Raises ConfigError or IntegrityError if the files cannot be used at the start."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._stamps()
        self.slot = ContextSlot(self._load())

    def refresh(self) -> None:
        """Take the files again if they have changed since they were looked at."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self.slot.current = self._load()
        except Error as problem:
            _log.error(EVENT_CERTIFICATE_NOT_TAKEN, reason=problem.reason, detail=problem.message, fix=problem.fix)
            return
        end_entity = self.slot.current.chain.end_entity
        _log.info(EVENT_CERTIFICATE_TAKEN, file=str(self._files[0]), until=str(end_entity.not_valid_after_utc))

    def _load(self) -> ServerContext:
        certificate, key = self._files
        return ServerContext(_read_chain(certificate), load_key_file(key))

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in self._files)


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _read_chain(path: Path) -> Chain:
    try:
        return Chain.from_pem(read_text(path))
    except ChainError as problem:
        raise ConfigError(f"{path}: {problem.message}", reason="certificate-unreadable") from problem
