"""Topics and filters, read and written."""

from __future__ import annotations

import pytest

from edgetrust.protocol.iothub import (
    DeviceboundTopic,
    InputTopic,
    MethodRequestTopic,
    MethodResponseTopic,
    Subscription,
    SubscriptionKind,
    TelemetryTopic,
    TopicError,
    TwinDesiredTopic,
    TwinGetTopic,
    TwinPatchTopic,
    TwinResponseTopic,
    devicebound_topic,
    filter_for,
    input_topic,
    method_request_topic,
    method_response_topic,
    parse_delivery_topic,
    parse_filter,
    parse_publish_topic,
    telemetry_topic,
    twin_desired_topic,
    twin_get_topic,
    twin_patch_topic,
    twin_response_topic,
)


@pytest.mark.parametrize(
    ("topic", "meaning"),
    [
        ("devices/d1/messages/events/", TelemetryTopic("d1", None)),
        ("devices/d1/messages/events", TelemetryTopic("d1", None)),
        ("devices/d1/messages/events/a=1&b", TelemetryTopic("d1", None, "a=1&b")),
        ("devices/d1/messages/events/?a=1", TelemetryTopic("d1", None, "a=1")),
        ("devices/d1/modules/m1/messages/events/%24.on=out1/", TelemetryTopic("d1", "m1", "%24.on=out1")),
        ("devices/a%20b/modules/$edgeHub/messages/events/", TelemetryTopic("a%20b", "$edgeHub")),
        ("devices/d1/messages/events/x=/messages/events", TelemetryTopic("d1", None, "x=/messages/events")),
        ("$iothub/twin/GET/?$rid=1", TwinGetTopic("1")),
        ("$iothub/twin/GET/?%24rid=a%20b", TwinGetTopic("a%20b")),
        ("$iothub/twin/PATCH/properties/reported/?$rid=0-9a&x=y", TwinPatchTopic("0-9a")),
        ("$iothub/methods/res/200/?$rid=7", MethodResponseTopic(200, "7")),
        ("$iothub/methods/res/-1/?x&$rid=7", MethodResponseTopic(-1, "7")),
    ],
)
def test_what_devices_publish_to(topic: str, meaning: object) -> None:
    assert parse_publish_topic(topic) == meaning


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "devices",
        "devices/",
        "devices/d1",
        "devices//messages/events/",
        "devices/messages/events/",
        "devices/d1/messages/eventsx",
        "devices/d1/messages/events2/",
        "devices/a#b/messages/events/",
        "devices/a b/messages/events/",
        "devices/d1/m1/messages/events/",
        "devices/d1/modules/messages/events/",
        "devices/d1/modules//messages/events/",
        "devices/d1/modules/m1/x/messages/events/",
        "devices/d1/things/m1/messages/events/",
        "Devices/d1/messages/events/",
        "/devices/d1/messages/events/",
        "devices/d1/messages/devicebound/",
        "$iothub/twin/GET",
        "$iothub/twin/GET/",
        "$iothub/twin/GET/$rid=1",
        "$iothub/twin/GET/?rid=1",
        "$iothub/twin/GET/?$rid=",
        f"$iothub/twin/GET/?$rid={'x' * 257}",
        "$iothub/twin/PATCH/properties/reported/",
        "$iothub/twin/PATCH/properties/desired/?$version=1",
        "$iothub/methods/res/ok/?$rid=1",
        "$iothub/methods/res/200",
        "$iothub/methods/res/٢/?$rid=1",
        f"$iothub/methods/res/{'9' * 11}/?$rid=1",
        "$iothub/credentials/POST/issueCertificate/?$rid=1",
        "$SYS/x",
        "x",
    ],
)
def test_what_is_not_offered(topic: str) -> None:
    with pytest.raises(TopicError) as caught:
        parse_publish_topic(topic)
    assert caught.value.reason == "topic-not-offered"


@pytest.mark.parametrize(
    ("topic", "meaning"),
    [
        ("devices/d1/messages/devicebound/", DeviceboundTopic("d1")),
        ("devices/d1/messages/devicebound/%24.to=%2Fx&a=1", DeviceboundTopic("d1", "%24.to=%2Fx&a=1")),
        ("devices/d1/modules/m1/inputs/in1/", InputTopic("d1", "m1", "in1")),
        ("devices/d1/modules/m1/inputs/in1/a=1", InputTopic("d1", "m1", "in1", "a=1")),
        ("$iothub/methods/POST/reboot/?$rid=2f", MethodRequestTopic("reboot", "2f")),
        ("$iothub/twin/res/200/?$rid=1", TwinResponseTopic(200, "1")),
        ("$iothub/twin/res/204/?$rid=1&$version=3", TwinResponseTopic(204, "1", 3)),
        ("$iothub/twin/PATCH/properties/desired/?$version=4", TwinDesiredTopic(4)),
    ],
)
def test_what_hubs_publish_to(topic: str, meaning: object) -> None:
    assert parse_delivery_topic(topic) == meaning


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "x",
        "devices/d1/messages/devicebound",
        "devices/d1/modules/m1/messages/devicebound/",
        "devices/d1/modules/m1/inputs/in1",
        "devices/d1/modules/m1/inputs//",
        "devices/d1/inputs/in1/",
        "devices/d1/messages/events/",
        "$iothub/methods/POST/reboot",
        "$iothub/methods/POST//?$rid=1",
        "$iothub/methods/POST/a%20b/?$rid=1",
        "$iothub/twin/res/x/?$rid=1",
        "$iothub/twin/res/200/?$version=1",
        "$iothub/twin/res/200/?$rid=1&$version=x",
        "$iothub/twin/PATCH/properties/desired/?$version=-1",
        "$iothub/twin/PATCH/properties/desired/",
    ],
)
def test_what_hubs_do_not_publish_to(topic: str) -> None:
    with pytest.raises(TopicError):
        parse_delivery_topic(topic)


def test_writing_is_read_back() -> None:
    assert parse_publish_topic(telemetry_topic("d", None, "a=1")) == TelemetryTopic("d", None, "a=1")
    assert parse_publish_topic(telemetry_topic("d", "m")) == TelemetryTopic("d", "m")
    assert parse_publish_topic(twin_get_topic("r")) == TwinGetTopic("r")
    assert parse_publish_topic(twin_patch_topic("r")) == TwinPatchTopic("r")
    assert parse_publish_topic(method_response_topic(404, "r")) == MethodResponseTopic(404, "r")
    assert parse_delivery_topic(input_topic("d", "m", "i", "a=1")) == InputTopic("d", "m", "i", "a=1")
    assert parse_delivery_topic(method_request_topic("go", "r")) == MethodRequestTopic("go", "r")
    assert parse_delivery_topic(twin_response_topic(200, "r")) == TwinResponseTopic(200, "r")
    assert parse_delivery_topic(twin_response_topic(204, "r", 9)) == TwinResponseTopic(204, "r", 9)
    assert parse_delivery_topic(twin_desired_topic(9)) == TwinDesiredTopic(9)


def test_cloud_to_device_topics() -> None:
    to = "%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound"
    assert devicebound_topic("d") == f"devices/d/messages/devicebound/{to}"
    assert devicebound_topic("d", "a=b/c") == f"devices/d/messages/devicebound/a=b%2Fc&{to}"
    assert devicebound_topic("d", "$.to=x") == "devices/d/messages/devicebound/$.to=x"


def test_inputs_end_with_a_slash() -> None:
    assert input_topic("d", "m", "in") == "devices/d/modules/m/inputs/in/"
    assert input_topic("d", "m", "in", "a=/") == "devices/d/modules/m/inputs/in/a=%2F"


SUBSCRIPTIONS = [
    ("devices/d1/messages/devicebound/#", Subscription(SubscriptionKind.C2D, "d1")),
    ("devices/d1/modules/m1/inputs/#", Subscription(SubscriptionKind.INPUTS, "d1", "m1")),
    ("$iothub/methods/POST/#", Subscription(SubscriptionKind.METHODS)),
    ("$iothub/twin/res/#", Subscription(SubscriptionKind.TWIN_RESPONSES)),
    ("$iothub/twin/PATCH/properties/desired/#", Subscription(SubscriptionKind.TWIN_DESIRED)),
]


@pytest.mark.parametrize(("topic_filter", "meaning"), SUBSCRIPTIONS)
def test_filters(topic_filter: str, meaning: Subscription) -> None:
    assert parse_filter(topic_filter) == meaning
    assert filter_for(meaning) == topic_filter


def test_the_wider_filter_of_a_module() -> None:
    assert parse_filter("devices/d/modules/m/#") == Subscription(SubscriptionKind.INPUTS, "d", "m")


@pytest.mark.parametrize(
    "topic_filter",
    [
        "",
        "#",
        "+",
        "devices/#",
        "devices/+/messages/devicebound/#",
        "devices/d1/messages/devicebound/",
        "devices/d1/messages/devicebound/+",
        "devices/d1/messages/#",
        "devices/d1/modules/+/inputs/#",
        "devices/d1/modules/m1/inputs/+",
        "devices/d1/modules/m1/inputs/in1/#",
        "devices/d1/things/m1/#",
        "things/d1/messages/devicebound/#",
        "devices/d1/messages/events/#",
        "$iothub/#",
        "$iothub/twin/#",
        "$iothub/methods/POST/+",
        "$iothub/twin/PATCH/properties/desired",
    ],
)
def test_filters_that_are_not_offered(topic_filter: str) -> None:
    with pytest.raises(TopicError):
        parse_filter(topic_filter)
