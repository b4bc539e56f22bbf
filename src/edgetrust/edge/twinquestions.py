"""Questions about a twin over one connection to the hub, and their answers (hub specification 3.9).

Rules: each question has a number, which its answer repeats. Whoever waits when the connection is lost is told so. An
answer of 429 and above may be another one later: UnavailableError; the others from 300 on are refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final, Protocol

import msgspec

from edgetrust.errors import PeerError, UnavailableError
from edgetrust.limits import CHILD_OPERATION_SECONDS
from edgetrust.protocol.iothub import TwinResponseTopic, twin_get_topic, twin_patch_topic
from edgetrust.protocol.twin import Json

_REFUSED: Final = 300
_AGAIN: Final = 429
_VERSION: Final = "$version"


class Publisher(Protocol):
    """An open connection, as far as it is used here."""

    @property
    def is_open(self) -> bool: ...

    async def publish(self, topic: str, payload: bytes, *, qos: int = ...) -> None: ...


class TwinQuestions:
    """The questions of one identity; `answered` is called with what the hub says."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._answers: dict[str, asyncio.Future[tuple[TwinResponseTopic, bytes]]] = {}

    async def twin(self, link: Publisher | None) -> bytes:
        """The twin as the hub tells it: JSON. Raises UnavailableError, PeerError."""
        _, body = await self._ask(link, twin_get_topic, b" ")
        return body

    async def report(self, link: Publisher | None, patch: bytes) -> int:
        """Report; the new version of the reported properties. Raises UnavailableError, PeerError."""
        answer, _ = await self._ask(link, twin_patch_topic, patch)
        return answer.version or 0

    def answered(self, topic: TwinResponseTopic, body: bytes) -> None:
        """An answer has come; one that nobody waits for is ignored."""
        waiting = self._answers.get(topic.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result((topic, body))

    def fail(self) -> None:
        """The connection is gone."""
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(away("the connection to the hub was lost"))

    async def _ask(
        self, link: Publisher | None, topic: Callable[[str], str], body: bytes
    ) -> tuple[TwinResponseTopic, bytes]:
        if link is None or not link.is_open:
            raise away("there is no connection to the hub now")
        request_id = str(next(self._numbers))
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CHILD_OPERATION_SECONDS):
                await link.publish(topic(request_id), body, qos=0)
                found, said = await answer
        except TimeoutError:
            raise away("the hub does not answer") from None
        finally:
            self._answers.pop(request_id, None)
        if found.status >= _AGAIN:
            raise away(f"the hub answers {found.status}")
        if found.status >= _REFUSED:
            raise PeerError(f"the hub answers {found.status}", reason="twin-refused", status=found.status)
        return found, said


def section(body: Json, name: str) -> tuple[Json, int]:
    """Values and version of a section of the twin that the hub told. Raises UnavailableError for anything else."""
    said = body.get(name)
    version = said.get(_VERSION) if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(version, int):
        raise UnavailableError("the hub tells a twin without versions", reason="hub-answer-malformed")
    return {key: value for key, value in said.items() if key != _VERSION}, version


def without_version(patch: Json) -> Json:
    """A patch as it is merged."""
    return {name: value for name, value in patch.items() if name != _VERSION}


def encoded(patch: Json) -> bytes:
    """A patch as it is sent."""
    return msgspec.json.encode(patch)


def away(what: str) -> UnavailableError:
    """That the hub cannot be asked now."""
    return UnavailableError(what, reason="hub-unreachable")
