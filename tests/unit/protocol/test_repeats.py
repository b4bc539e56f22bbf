"""What makes a message the same as an earlier one, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.protocol.messages import Message
from edgetrust.protocol.repeats import Mark, Recognition, mark_of, sift

FIRST = Message("sensor", None, "%24.mid=7&unit=C", b"21", 1, "{}", "Telemetry")


def mark(place: str = "", **changed: Any) -> Mark:
    found = mark_of(FIRST._replace(**changed), place)
    assert found is not None
    return found


@pytest.mark.parametrize("properties", ["", "unit=C", "mid=7", "%24.mid", "$.mid=", "amid=7"])
def test_without_an_id_nothing_is_recognised(properties: str) -> None:
    assert mark_of(FIRST._replace(properties=properties)) is None


@pytest.mark.parametrize("properties", ["$.mid=7&unit=C", "%24.mid=7&unit=C"])
def test_the_mark_of_mqtt_changes_whether_it_was_resent_and_not_what_it_is(properties: str) -> None:
    plain, resent = mark(properties=properties), mark(properties=f"{properties}&mqtt-dup=true")
    assert (plain.resent, resent.resent) == (False, True)
    assert plain.fingerprint == resent.fingerprint
    assert mark(properties=f"{properties}&mqtt-dup=true&mqtt-dup=true") == resent


def test_when_and_how_it_came_do_not_matter() -> None:
    assert mark(enqueued_ms=2, auth_method="other", message_source="Will") == mark()


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "other"},
        {"module": "m"},
        {"properties": "%24.mid=8&unit=C"},
        {"properties": "%24.mid=7&unit=F"},
        {"body": b"22"},
        {"place": "filter/in"},
    ],
    ids=str,
)
def test_whatever_else_differs_makes_it_another_message(changed: dict[str, Any]) -> None:
    assert mark(**changed).fingerprint != mark().fingerprint


def test_parts_do_not_run_into_each_other() -> None:
    assert mark(device="sensora", module="b").fingerprint != mark(device="sensor", module="ab").fingerprint


A, B = Mark("a", False), Mark("b", False)
A2, B2 = Mark("a", True), Mark("b", True)


@pytest.mark.parametrize(
    ("recognition", "marks", "taken", "remembered"),
    [
        (Recognition.RESENT, [A, B, None, None], (0, 1, 2, 3), {0: "a", 1: "b"}),
        (Recognition.RESENT, [A, A, A2], (0, 1), {0: "a"}),
        (Recognition.RESENT, [A2, A2], (0,), {0: "a"}),
        (Recognition.RESENT, [Mark("known", False), Mark("known", True)], (0,), {0: "known"}),
        (Recognition.SAME_ID, [A, A, B2, None, Mark("known", False)], (0, 2, 3), {0: "a", 2: "b"}),
        (Recognition.OFF, [A, A2, Mark("known", True)], (0, 1, 2), {}),
    ],
)
def test_sifting(
    recognition: Recognition, marks: list[Mark | None], taken: tuple[int, ...], remembered: dict[int, str]
) -> None:
    sifted = sift(marks, {"known"}, recognition)
    assert sifted.taken == taken
    assert sifted.repeated == tuple(place for place in range(len(marks)) if place not in taken)
    assert sifted.remember == remembered
