"""Direct methods as JSON: calls, answers, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrust.errors import Error
from edgetrust.limits import METHOD_PAYLOAD_BYTES
from edgetrust.protocol.hub_errors import error_status
from edgetrust.protocol.methods import (
    MethodAnswer,
    MethodCall,
    MethodError,
    method_answer_body,
    not_answered,
    not_online,
    parse_method_call,
    too_many_in_flight,
)


def refused(call: Any, *arguments: Any) -> MethodError:
    with pytest.raises(MethodError) as caught:
        call(*arguments)
    assert caught.value.status == error_status(caught.value.code)
    return caught.value


def test_a_call_as_the_python_sdk_sends_it() -> None:
    body = b'{"methodName":"m","payload":{"a": 1},"responseTimeoutInSeconds":10,"connectTimeoutInSeconds":5}'
    assert parse_method_call(body) == MethodCall("m", b'{"a": 1}', 10, 5)


@pytest.mark.parametrize(
    "body",
    [
        b'{"methodName":"m"}',
        b'{"methodName":"m","payload":null,"responseTimeoutInSeconds":null,"connectTimeoutInSeconds":null,"x":1}',
    ],
)
def test_what_is_not_said_has_its_default(body: bytes) -> None:
    assert parse_method_call(body) == MethodCall("m", b"null", 30, 0)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "IotHubFormatError"),
        (b"{", "IotHubFormatError"),
        (b'{"methodName":"\xff"}', "IotHubFormatError"),
        (b'{"payload":' + b"[" * 100_000, "IotHubFormatError"),
        (b"{}", "ArgumentInvalid"),
        (b"[]", "ArgumentInvalid"),
        (b'{"methodName":1}', "ArgumentInvalid"),
        (b'{"methodName":""}', "ArgumentInvalid"),
        (b'{"methodName":"a/b"}', "ArgumentInvalid"),
        (b'{"methodName":"a b"}', "ArgumentInvalid"),
        (b'{"methodName":"a+"}', "ArgumentInvalid"),
        (b'{"methodName":"%s"}' % (b"x" * 129), "ArgumentInvalid"),
        (b'{"methodName":"m","responseTimeoutInSeconds":4}', "ArgumentInvalid"),
        (b'{"methodName":"m","responseTimeoutInSeconds":301}', "ArgumentInvalid"),
        (b'{"methodName":"m","responseTimeoutInSeconds":"10"}', "ArgumentInvalid"),
        (b'{"methodName":"m","connectTimeoutInSeconds":-1}', "ArgumentInvalid"),
        (b'{"methodName":"m","connectTimeoutInSeconds":301}', "ArgumentInvalid"),
    ],
)
def test_what_is_no_call_is_refused(body: bytes, code: str) -> None:
    problem = refused(parse_method_call, body)
    assert (problem.reason, problem.code) == ("method-malformed", code)


def test_a_payload_is_limited_to_the_byte() -> None:
    fits = b'"' + b"x" * (METHOD_PAYLOAD_BYTES - 2) + b'"'
    assert parse_method_call(b'{"methodName":"m","payload":%s}' % fits).payload == fits
    problem = refused(parse_method_call, b'{"methodName":"m","payload":%s }' % fits.replace(b"x", b"xx", 1))
    assert (problem.reason, problem.code) == ("method-payload-too-large", "MessageTooLarge")
    assert json.loads(method_answer_body(MethodAnswer(200, fits)))["payload"].startswith("x")
    assert refused(method_answer_body, MethodAnswer(200, fits + b"1")).reason == "method-answer-malformed"


@pytest.mark.parametrize(
    ("payload", "seen"), [(b"", None), (b"  ", None), (b"null", None), (b' {"a": [1]} ', {"a": [1]}), (b'"x"', "x")]
)
def test_an_answer_is_passed_on(payload: bytes, seen: object) -> None:
    assert json.loads(method_answer_body(MethodAnswer(-3, payload))) == {"status": -3, "payload": seen}


@pytest.mark.parametrize("payload", [b"{", b"hello", b"\xff", b"1 2", b"[" * 100_000])
def test_an_answer_that_is_no_json_is_the_devices_fault(payload: bytes) -> None:
    problem = refused(method_answer_body, MethodAnswer(200, payload))
    assert (problem.reason, problem.code, problem.status) == ("method-answer-malformed", "BadDeviceResponse", 502)


def test_failures_have_the_names_that_sdks_know() -> None:
    for problem, code, status in (
        (not_online("d1", 0), "DeviceNotOnline", 404),
        (not_online("d1", 5), "DeviceNotOnline", 404),
        (not_answered("d1", 5), "GatewayTimeout", 504),
        (too_many_in_flight("d1", 10), "DeviceMaximumInflightMethodExceeded", 403),
    ):
        assert (problem.code, problem.status, error_status(problem.code)) == (code, status, status)


names = st.text("abcXYZ019-._~", min_size=1, max_size=128)
payloads = st.recursive(
    st.none() | st.integers(-(2**53), 2**53) | st.text(max_size=9), lambda x: st.lists(x, max_size=3), max_leaves=9
).map(lambda value: json.dumps(value).encode())


@given(names, payloads, st.integers(5, 300), st.integers(0, 300))
def test_what_is_written_is_read(method: str, payload: bytes, response: int, connect: int) -> None:
    body = {
        "methodName": method,
        "payload": json.loads(payload),
        "responseTimeoutInSeconds": response,
        "connectTimeoutInSeconds": connect,
    }
    read = parse_method_call(json.dumps(body).encode())
    assert (read.method, json.loads(read.payload)) == (method, json.loads(payload))
    assert (read.response_seconds, read.connect_seconds) == (response, connect)


@given(st.binary(max_size=80))
def test_garbage_is_one_documented_error(data: bytes) -> None:
    try:
        parse_method_call(data)
    except Error as problem:
        assert problem.reason == "method-malformed"
