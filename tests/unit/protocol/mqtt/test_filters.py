"""Which texts are topics and filters, and what matches (MQTT 3.1.1, 4.7)."""

from __future__ import annotations

import pytest

from edgetrust.protocol.mqtt.filters import matches, valid_filter, valid_topic


@pytest.mark.parametrize("text", ["a", "/", "a/b", "$iothub/twin/GET/?$rid=1", " ", "é", "x" * 65_535])
def test_topics(text: str) -> None:
    assert valid_topic(text)
    assert valid_filter(text)


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800", "x" * 65_536, "é" * 32_768])
def test_neither_topic_nor_filter(text: str) -> None:
    assert not valid_topic(text)
    assert not valid_filter(text)


@pytest.mark.parametrize("text", ["+", "#", "a/+/b", "a/#", "+/+", "+/#", "/+", "devices/d/messages/devicebound/#"])
def test_filters_that_are_no_topics(text: str) -> None:
    assert valid_filter(text)
    assert not valid_topic(text)


@pytest.mark.parametrize("text", ["a+", "+a", "a/b+/c", "#/a", "a#", "a/#/b", "a/##", "##", "#/#"])
def test_wildcards_out_of_place(text: str) -> None:
    assert not valid_filter(text)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a/b", "a/b"),
        ("a/+", "a/b"),
        ("a/+/c", "a/b/c"),
        ("+", "a"),
        ("/+", "/a"),
        ("+/+", "/a"),
        ("#", "a/b"),
        ("a/#", "a"),
        ("a/#", "a/"),
        ("a/#", "a/b/c"),
        ("+/#", "a"),
        ("$iothub/#", "$iothub/twin"),
        ("a//b", "a//b"),
        ("a/+/b", "a//b"),
    ],
)
def test_matching(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("a", "b"),
        ("a", "A"),
        ("a/+", "a"),
        ("a/+", "a/b/c"),
        ("+", "a/b"),
        ("+", "/a"),
        ("a/b/#", "a"),
        ("b/#", "a/b"),
        ("#", "$iothub/twin"),
        ("+/twin", "$iothub/twin"),
    ],
)
def test_not_matching(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)
