"""Topics of provisioning."""

from __future__ import annotations

import pytest

from edgetrust.protocol.dps.topics import RegisterTopic, StatusTopic, parse_dps_topic, response_topic


def test_requests() -> None:
    assert parse_dps_topic("$dps/registrations/PUT/iotdps-register/?$rid=1") == RegisterTopic("1")
    status = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=a-b&operationId=5.ab%2Ecd"
    assert parse_dps_topic(status) == StatusTopic("a-b", "5.ab.cd")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "$dps/registrations/PUT/iotdps-register",
        "$dps/registrations/PUT/iotdps-register/?",
        "$dps/registrations/PUT/iotdps-register/?$rid=",
        "$dps/registrations/PUT/iotdps-register/?$rid=a$b",
        "$dps/registrations/PUT/iotdps-register/?$rid=a/b",
        "$dps/registrations/PUT/iotdps-register/?$rid=" + "1" * 200,
        "$dps/registrations/DELETE/iotdps-register/?$rid=1",
        "devices/d1/messages/events/",
    ],
)
def test_no_requests(topic: str) -> None:
    assert parse_dps_topic(topic) is None


def test_answers_have_two_dollar_signs_with_the_request_behind_the_second() -> None:
    topic = response_topic(202, "abc", 3)
    assert topic == "$dps/registrations/res/202/?$rid=abc&retry-after=3"
    assert topic.split("$")[2].startswith("rid=abc")
    assert response_topic(200, "abc") == "$dps/registrations/res/200/?$rid=abc"
