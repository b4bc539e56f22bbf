"""Direct methods: a service's call, what the device answered, and the errors between them (hub specification 6.2).

Rules: a method's name is made of unreserved characters, since it stands in a topic; the payload is any JSON, at most
METHOD_PAYLOAD_BYTES in either direction; without one, null is sent, and an empty answer is null. A device's status is
any whole number and goes back as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from edgetrust.errors import PeerError
from edgetrust.limits import (
    METHOD_CONNECT_SECONDS_MAX,
    METHOD_PAYLOAD_BYTES,
    METHOD_RESPONSE_SECONDS,
    METHOD_RESPONSE_SECONDS_MAX,
    METHOD_RESPONSE_SECONDS_MIN,
)

_NAME = re.compile(r"[A-Za-z0-9\-._~]{1,128}")
_NULL = b"null"


class MethodError(PeerError):
    """A call that cannot be made, or was not answered. `code` is the name in hub specification 12.2."""

    def __init__(self, message: str, *, reason: str, code: str, status: int, fix: str = "") -> None:
        super().__init__(message, reason=reason, status=status, fix=fix)
        self.code = code


@dataclass(frozen=True, slots=True)
class MethodCall:
    """What a service asks for. `payload` is JSON; times in seconds: for the device to answer, and to come first."""

    method: str
    payload: bytes = _NULL
    response_seconds: int = METHOD_RESPONSE_SECONDS
    connect_seconds: int = 0


@dataclass(frozen=True, slots=True)
class MethodAnswer:
    """What the device answered; `payload` as it came."""

    status: int
    payload: bytes


class _CallBody(msgspec.Struct, rename="camel", frozen=True):
    method_name: str
    payload: msgspec.Raw = msgspec.Raw(_NULL)
    response_timeout_in_seconds: int | None = None
    connect_timeout_in_seconds: int | None = None


class _AnswerBody(msgspec.Struct, frozen=True):
    status: int
    payload: msgspec.Raw


def parse_method_call(data: bytes) -> MethodCall:
    """The body of a call. Raises MethodError."""
    try:
        body = msgspec.json.decode(data, type=_CallBody)
    except msgspec.ValidationError as problem:
        raise _malformed(str(problem)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _malformed("the body is not JSON", code="IotHubFormatError") from None
    if not _NAME.fullmatch(body.method_name):
        raise _malformed(f"{body.method_name[:140]!r} names no method: use letters, digits and - . _ ~")
    payload = bytes(body.payload)
    if len(payload) > METHOD_PAYLOAD_BYTES:
        raise MethodError(
            f"a payload of {len(payload)} bytes, at most {METHOD_PAYLOAD_BYTES} are sent",
            reason="method-payload-too-large",
            code="MessageTooLarge",
            status=413,
        )
    response, connect = body.response_timeout_in_seconds, body.connect_timeout_in_seconds
    response, connect = METHOD_RESPONSE_SECONDS if response is None else response, connect or 0
    if not METHOD_RESPONSE_SECONDS_MIN <= response <= METHOD_RESPONSE_SECONDS_MAX:
        limits = f"{METHOD_RESPONSE_SECONDS_MIN} to {METHOD_RESPONSE_SECONDS_MAX}"
        raise _malformed(f"responseTimeoutInSeconds is {limits}, not {response}")
    if not 0 <= connect <= METHOD_CONNECT_SECONDS_MAX:
        raise _malformed(f"connectTimeoutInSeconds is 0 to {METHOD_CONNECT_SECONDS_MAX}, not {connect}")
    return MethodCall(body.method_name, payload, response, connect)


def method_answer_body(answer: MethodAnswer) -> bytes:
    """What the caller gets. Raises MethodError 502 when the device's payload is too large or no JSON."""
    payload = answer.payload.strip() or _NULL
    if len(payload) > METHOD_PAYLOAD_BYTES:
        raise _bad_answer(f"{len(payload)} bytes, at most {METHOD_PAYLOAD_BYTES} are passed on")
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _bad_answer("no JSON") from None
    return msgspec.json.encode(_AnswerBody(answer.status, msgspec.Raw(payload)))


def not_online(identity: str, seconds: int) -> MethodError:
    """Whoever is called is not connected, or does not take methods."""
    waited = f" within {seconds} seconds" if seconds else ""
    return MethodError(
        f"{identity} is not connected and subscribed to methods{waited}",
        reason="device-not-online",
        code="DeviceNotOnline",
        status=404,
        fix="start the device, or give it time with connectTimeoutInSeconds",
    )


def not_answered(identity: str, seconds: int) -> MethodError:
    """The call was sent, and no answer came in time."""
    return MethodError(
        f"{identity} did not answer within {seconds} seconds",
        reason="method-not-answered",
        code="GatewayTimeout",
        status=504,
    )


def too_many_in_flight(identity: str, most: int) -> MethodError:
    """Too many calls of the same device or module wait."""
    return MethodError(
        f"{most} calls of {identity} wait for their answer",
        reason="method-too-many-in-flight",
        code="DeviceMaximumInflightMethodExceeded",
        status=403,
        fix="wait for one of them",
    )


def _malformed(message: str, *, code: str = "ArgumentInvalid") -> MethodError:
    return MethodError(message, reason="method-malformed", code=code, status=400)


def _bad_answer(what: str) -> MethodError:
    return MethodError(
        f"the device's answer is {what}", reason="method-answer-malformed", code="BadDeviceResponse", status=502
    )
