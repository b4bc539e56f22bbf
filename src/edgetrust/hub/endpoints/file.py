"""A file of JSON lines, one per event, synced before the route goes on.

Opened anew for every batch, so that whoever rotates logs may move it away at any time. A line that a crash cut short is
ended before the next one begins. Readable for its owner only: it holds what devices said.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgetrust.errors import UnavailableError
from edgetrust.hub.event_entry import event_entry
from edgetrust.store.events import StoredMessage


class FileEndpoint:
    """Appends to `path`."""

    lanes = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()  # several routes may write to one file

    async def deliver(self, events: Sequence[StoredMessage]) -> None:
        """Append a line for each, then sync. UnavailableError `endpoint-file` when the disk refuses."""
        lines = b"".join(msgspec.json.encode(event_entry(stored)) + b"\n" for stored in events)
        try:
            async with self._turn:
                await asyncio.to_thread(self._append, lines)
        except OSError as problem:
            raise UnavailableError(
                f"{self._path} cannot be written: {problem.strerror}",
                reason="endpoint-file",
                fix="make its directory exist, writable and with room",
            ) from problem

    async def close(self) -> None:
        """Nothing is held."""

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    lines = b"\n" + lines
            view = memoryview(lines)
            while view:
                view = view[file.write(view) :]
            os.fsync(descriptor)
