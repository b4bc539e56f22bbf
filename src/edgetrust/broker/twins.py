"""Twin requests: one connection's questions for its twin and patches of its reported properties (hub specification
3.9).

Rules:
1. Requests are answered one after the other, in the order they came: who patches and then asks sees the patch.
2. A patch is answered, and its PUBLISH acknowledged, when it is on disk. Every request is answered, a refused one with
   its status and a body that names the error.
3. Answers are sent at QoS 0 and need no subscription: the Python client asks after each reconnect without one.
4. More than TWIN_REQUESTS_WAITING requests that wait are answered 429, and one larger than any patch needs 413: what
   waits stays small.
5. What was asked before a connection ends is done all the same, unless the client is not accepted any more. A request
   that cannot be finished ends the connection: its client sends it again.

It must not know sockets or SQL: the store of twins is a port.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgetrust.broker.ports import Stream, Twins
from edgetrust.broker.surroundings import Surroundings
from edgetrust.errors import Error, PeerError
from edgetrust.limits import TWIN_PATCH_BYTES, TWIN_REQUESTS_WAITING
from edgetrust.protocol.hub_errors import ERROR_NUMBERS, mqtt_error
from edgetrust.protocol.iothub import TwinGetTopic, TwinPatchTopic, twin_response_topic
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.protocol.twin import device_view, parse_patch
from edgetrust.telemetry import TWIN_REQUESTS
from edgetrust.trust.identity import Identity

Topic = TwinGetTopic | TwinPatchTopic

_OK, _NO_CONTENT = 200, 204


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes = b""
    version: int | None = None


class TwinRequests:
    """The requests of one connection."""

    __slots__ = ("_around", "_identity", "_stream", "_twins", "_waiting", "_working")

    def __init__(self, identity: Identity, stream: Stream, around: Surroundings, twins: Twins) -> None:
        self._identity = identity
        self._stream = stream
        self._around = around
        self._twins = twins
        self._waiting: deque[tuple[Topic, bytes, Callable[[], None]]] = deque()
        self._working = False

    def take(self, topic: Topic, payload: bytes, done: Callable[[], None]) -> None:
        """One request; `done` is called when it may be acknowledged."""
        if len(self._waiting) >= TWIN_REQUESTS_WAITING:
            detail = f"{TWIN_REQUESTS_WAITING} twin requests of this connection wait"
            self._send(topic, self._failure("ThrottlingException", detail), done)
        elif len(payload) > TWIN_PATCH_BYTES:
            detail = f"{len(payload)} bytes, at most {TWIN_PATCH_BYTES} are read"
            self._send(topic, self._failure("MessageTooLarge", detail), done)
        else:
            self._waiting.append((topic, payload, done))
            if not self._working:
                self._working = True
                self._around.tasks.start(self._work())

    def drop(self) -> None:
        """The client is not accepted any more: what waits is not done."""
        self._waiting.clear()

    async def _work(self) -> None:
        try:
            while self._waiting:
                topic, payload, done = self._waiting.popleft()
                self._send(topic, await self._answer(topic, payload), done)
        except BaseException:
            self._stream.close("a twin request was not finished")  # it is not acknowledged: the client sends it again
            raise
        finally:
            self._working = False

    async def _answer(self, topic: Topic, payload: bytes) -> _Answer:
        device, module = self._identity.device, self._identity.module
        try:
            if isinstance(topic, TwinGetTopic):
                return _Answer(_OK, device_view(await self._twins.twin(device, module)))
            version = await self._twins.report(device, parse_patch(payload), module=module)
        except PeerError as problem:
            name = getattr(problem, "code", "")
            return self._failure(name if name in ERROR_NUMBERS else "GenericBadRequest", problem.message)
        except Error as problem:
            return self._failure("ServiceUnavailable", problem.message)
        return _Answer(_NO_CONTENT, version=version)

    def _failure(self, name: str, text: str) -> _Answer:
        status, body = mqtt_error(name, text, self._around.clock.now())
        return _Answer(status, body)

    def _send(self, topic: Topic, answer: _Answer, done: Callable[[], None]) -> None:
        kind = "get" if isinstance(topic, TwinGetTopic) else "report"
        TWIN_REQUESTS.labels(kind, str(answer.status)).inc()
        done()
        if not self._stream.is_closing:
            to = twin_response_topic(answer.status, topic.request_id, answer.version)
            self._stream.send(encode(Publish(to, answer.body, 0)))
