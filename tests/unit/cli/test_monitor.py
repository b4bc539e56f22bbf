"""The tail loses nothing between two questions, and ends when it was told to."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from edgetrust.cli import monitor

Call = Callable[..., Any]


def event(offset: int, **changes: Any) -> dict[str, Any]:
    return {
        "offset": offset,
        "device": "d1",
        "module": None,
        "enqueuedAt": "2026-01-01T00:00:00Z",
        "properties": {},
        "body": base64.b64encode(b"hi").decode(),
        "bodyText": "hi",
        **changes,
    }


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust("monitor", *arguments, "--dir", hub.directory)


def pages(*given: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Any]:
    waiting = list(given)

    def answer(asked: dict[str, Any]) -> Any:
        events = waiting.pop(0) if waiting else []
        after = asked["query"]["after"]
        return {"events": events, "next": events[-1]["offset"] if events else (0 if after == "latest" else after)}

    return answer


def test_each_message_is_a_line(call: Call, hub: Any) -> None:
    first = event(1, module="m1", properties={"a": "b"})
    second = event(2, bodyText=None, body=base64.b64encode(b"\xff\x00").decode())
    hub.answer("GET", "/edgetrust/events", pages([first, second]))
    shown = call("--from", "start", "--no-follow")
    assert shown.out.splitlines() == [
        "2026-01-01T00:00:00Z  #1  d1/m1  hi  a=b",
        "2026-01-01T00:00:00Z  #2  d1  (2 bytes)",
    ]
    assert [asked["query"]["after"] for asked in hub.asked] == ["0", "2"]
    assert shown.err == ""


def test_it_goes_on_behind_the_last_one(call: Call, hub: Any) -> None:
    hub.answer("GET", "/edgetrust/events", pages([event(5)], [], [event(6), event(7)]))
    shown = call("--count", "2", "--json", "--device", "d1")
    assert [json.loads(line)["offset"] for line in shown.out.splitlines()] == [5, 6]
    assert [asked["query"]["after"] for asked in hub.asked] == ["latest", "5", "5"]
    assert {asked["query"]["device"] for asked in hub.asked} == {"d1"}
    assert float(hub.asked[0]["query"]["wait_seconds"]) == monitor.WAIT_SECONDS


def test_too_few_in_time_is_a_failure(call: Call, hub: Any) -> None:
    hub.answer("GET", "/edgetrust/events", pages([event(1)]))
    shown = call("--from", "0", "--count", "2", "--timeout", "2")
    assert shown.code == 1
    assert "1 of 2 messages arrived" in shown.err


def test_a_time_without_a_count_is_none(call: Call, hub: Any) -> None:
    hub.answer("GET", "/edgetrust/events", pages([event(1)]))
    shown = call("--timeout", "0.2")
    assert shown.code == 0
    assert "listening to localhost" in shown.err


def test_a_hub_that_goes_away_is_waited_for(call: Call, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_RETRY_SECONDS", 0.01)
    hub.answer("GET", "/edgetrust/events", {"Message": "ErrorCode:ServiceUnavailable;later"}, 503)
    answers = [503, 503, 200]

    def handle(asked: dict[str, Any]) -> Any:
        del asked
        answers.pop(0)
        if answers == [200]:
            hub.answer("GET", "/edgetrust/events", pages([event(1)]))
        return {"Message": "ErrorCode:ServiceUnavailable;later"}

    hub.answer("GET", "/edgetrust/events", handle, 503)
    shown = call("--count", "1")
    assert shown.code == 0
    assert shown.err.count("trying again") == 1


def test_a_hub_that_is_away_is_an_error_without_follow(call: Call, hub: Any) -> None:
    hub.answer("GET", "/edgetrust/events", {"Message": "ErrorCode:ServiceUnavailable;later"}, 503)
    assert call("--no-follow").code == 3


def test_an_odd_start_is_usage(call: Call) -> None:
    assert call("--from", "yesterday").code == 2
