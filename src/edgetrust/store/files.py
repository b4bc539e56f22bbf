"""Files that devices upload: a folder per device below one directory, and what is not complete yet beside it.

Rules: a file appears under its name whole and synced, or not at all; a later upload of the same name replaces it. The
names on disk are made from the device's identifier and the blob's name, percent-encoded, so that nothing a device says
leads out of its folder; a name that would be too long ends with a hash. An upload is bounded in bytes, blocks not yet
put together included. Folders and files are for their owner only.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from edgetrust.errors import PeerError, UnavailableError
from edgetrust.limits import UPLOAD_BLOCKS, UPLOAD_BYTES, UPLOAD_CHUNK_BYTES

P = ParamSpec("P")
T = TypeVar("T")

_NAME_MAX = 200  # of the 255 bytes that file systems take
_INCOMING = ".incoming"  # no device's folder: a leading dot is encoded


def safe_name(text: str) -> str:
    """`text` as the name of a file or folder: one path segment, never hidden, at most 200 bytes."""
    name = quote(text, safe="-_.~ +,=@()")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= _NAME_MAX:
        return name
    return f"{name[:120]}-{hashlib.sha256(text.encode()).hexdigest()}"


class UploadedFiles:
    """Files below `directory`. What the disk refuses is UnavailableError `upload-not-stored`."""

    def __init__(self, directory: Path, *, limit_bytes: int = UPLOAD_BYTES) -> None:
        self._directory = directory
        self._limit = limit_bytes
        self._sizes: dict[str, int] = {}  # bytes on disk of each upload that is under way in this process

    def place(self, device: str, blob: str) -> Path:
        """Where the file of this name is when it is complete."""
        return self._directory / safe_name(device) / safe_name(blob)

    async def put(self, upload: str, device: str, blob: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a whole file; returns its bytes. PeerError 413 when it is too large."""
        part = await self._receive(upload, "whole", chunks)
        size = part.stat().st_size
        await _on_disk(_move, part, self.place(device, blob))
        await self.forget(upload)
        return size

    async def put_block(self, upload: str, block: str, chunks: AsyncIterator[bytes]) -> None:
        """Store one block. PeerError 413 when the blocks together are too large, or too many."""
        folder = self._folder(upload)
        known = len(list(folder.iterdir())) if folder.exists() else 0
        if known > UPLOAD_BLOCKS:
            raise PeerError(f"an upload has at most {UPLOAD_BLOCKS} blocks", reason="upload-too-large", status=413)
        await self._receive(upload, _block_name(block), chunks)

    async def put_together(self, upload: str, device: str, blob: str, blocks: Sequence[str]) -> None:
        """The file is these blocks in this order. PeerError 400 when one of them never came."""
        parts = [self._folder(upload) / _block_name(block) for block in blocks]
        if len(parts) > UPLOAD_BLOCKS or not all(part.exists() for part in parts):
            raise PeerError("the list names a block that was not sent", reason="upload-block-unknown", status=400)
        if sum(part.stat().st_size for part in parts) > self._limit:
            raise self._too_large()
        await _on_disk(self._join, upload, parts, self.place(device, blob))
        await self.forget(upload)

    async def forget(self, upload: str) -> None:
        """Drop what an upload has left behind."""
        self._sizes.pop(upload, None)
        await asyncio.to_thread(shutil.rmtree, self._folder(upload), ignore_errors=True)

    def _folder(self, upload: str) -> Path:
        return self._directory / _INCOMING / safe_name(upload)

    async def _receive(self, upload: str, name: str, chunks: AsyncIterator[bytes]) -> Path:
        """The bytes under `name`, synced; a partial file is removed when the sender goes away or sends too much."""
        folder = self._folder(upload)
        await _on_disk(_make_folder, folder)
        self._sizes.setdefault(upload, sum(file.stat().st_size for file in folder.iterdir()))
        part, growing = folder / name, folder / f"{name}.{os.urandom(8).hex()}"
        written = 0
        try:
            descriptor = await _on_disk(os.open, growing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                async for chunk in _gathered(chunks):
                    written += len(chunk)
                    self._grow(upload, len(chunk))
                    await _on_disk(_write_all, descriptor, chunk)
                await _on_disk(os.fsync, descriptor)
            finally:
                os.close(descriptor)
            replaced = part.stat().st_size if part.exists() else 0
            await _on_disk(growing.replace, part)
        except BaseException:
            growing.unlink(missing_ok=True)
            self._grow(upload, -written)
            raise
        self._grow(upload, -replaced)
        return part

    def _grow(self, upload: str, size: int) -> None:
        self._sizes[upload] = self._sizes.get(upload, 0) + size
        if size > 0 and self._sizes[upload] > self._limit:
            raise self._too_large()

    def _join(self, upload: str, parts: Sequence[Path], place: Path) -> None:
        growing = self._folder(upload) / f"together.{os.urandom(8).hex()}"
        _make_folder(growing.parent)
        with os.fdopen(os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, file)
            file.flush()
            os.fsync(file.fileno())
        _move(growing, place)

    def _too_large(self) -> PeerError:
        return PeerError(f"a file has at most {self._limit} bytes", reason="upload-too-large", status=413)


def _block_name(block: str) -> str:
    return "block-" + hashlib.sha256(block.encode()).hexdigest()


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: one trip to a thread for each."""
    waiting = bytearray()
    async for chunk in chunks:
        waiting += chunk
        if len(waiting) >= UPLOAD_CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


async def _on_disk(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run `work` off the loop. What the disk refuses is UnavailableError."""
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except OSError as problem:
        raise UnavailableError(
            f"the file cannot be stored: {problem.strerror}",
            reason="upload-not-stored",
            fix="make room, and the hub's data directory writable",
        ) from problem


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _move(file: Path, place: Path) -> None:
    _make_folder(place.parent)
    file.replace(place)
    _sync_folder(place.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
