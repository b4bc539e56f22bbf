"""The topics of IoT Hub over MQTT: what each text means, in both directions (hub specification 3.7).

Identifiers stand raw in topics, so they cannot contain `/`, `+` or `#`. Anything that is not listed there is refused. A
property bag stays the text it is: `properties` reads it, most receivers never need to. Whether the client may use the
topic is not decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from edgetrust.errors import PeerError
from edgetrust.protocol.iothub.identifiers import mqtt_usable
from edgetrust.protocol.iothub.properties import add_property, parse_properties

REQUEST_ID_CHARACTERS = 256  # SDKs use a UUID; it comes back in a topic
_METHOD_NAME = re.compile(r"[A-Za-z0-9\-._~]{1,128}")
_STATUS = re.compile(r"-?[0-9]{1,10}")
_VERSION = re.compile(r"[0-9]{1,19}")

_TWIN_GET = "$iothub/twin/GET/"
_TWIN_REPORTED = "$iothub/twin/PATCH/properties/reported/"
_TWIN_DESIRED = "$iothub/twin/PATCH/properties/desired/"
_TWIN_RESPONSE = "$iothub/twin/res/"
_METHOD_REQUEST = "$iothub/methods/POST/"
_METHOD_RESPONSE = "$iothub/methods/res/"


class TopicError(PeerError):
    """A topic or filter that the service does not have. The connection is closed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="topic-not-offered", status=400)


# Device to hub ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TelemetryTopic:
    """Telemetry of a device or module. `properties` is the property bag as received."""

    device: str
    module: str | None
    properties: str = ""


@dataclass(frozen=True, slots=True)
class TwinGetTopic:
    """A request for the whole twin; the answer repeats `request_id`."""

    request_id: str


@dataclass(frozen=True, slots=True)
class TwinPatchTopic:
    """A patch of the reported properties."""

    request_id: str


@dataclass(frozen=True, slots=True)
class MethodResponseTopic:
    """The answer to a direct method."""

    status: int
    request_id: str


PublishTopic = TelemetryTopic | TwinGetTopic | TwinPatchTopic | MethodResponseTopic


def parse_publish_topic(topic: str) -> PublishTopic:
    """What a device publishes to. Raises TopicError."""
    if topic.startswith("devices/"):
        return _telemetry(topic)
    if topic.startswith(_TWIN_GET):
        return TwinGetTopic(_request_id(topic, _query(topic, topic[len(_TWIN_GET) :])))
    if topic.startswith(_TWIN_REPORTED):
        return TwinPatchTopic(_request_id(topic, _query(topic, topic[len(_TWIN_REPORTED) :])))
    if topic.startswith(_METHOD_RESPONSE):
        status, query = _status(topic, topic[len(_METHOD_RESPONSE) :])
        return MethodResponseTopic(status, _request_id(topic, query))
    raise _unknown(topic)


def _telemetry(topic: str) -> TelemetryTopic:
    subject, events, bag = topic.partition("/messages/events")
    device, module = _subject(topic, subject.split("/"))
    if not events or (bag and bag[0] != "/"):
        raise _unknown(topic)
    return TelemetryTopic(device, module, _bag(bag[1:]))


def telemetry_topic(device: str, module: str | None = None, properties: str = "") -> str:
    """Where a device or module publishes telemetry; `properties` is a property bag."""
    return f"{_base(device, module)}/messages/events/{properties}"


def twin_get_topic(request_id: str) -> str:
    """Where the twin is asked for."""
    return f"{_TWIN_GET}?$rid={request_id}"


def twin_patch_topic(request_id: str) -> str:
    """Where reported properties are patched."""
    return f"{_TWIN_REPORTED}?$rid={request_id}"


def method_response_topic(status: int, request_id: str) -> str:
    """Where a direct method is answered."""
    return f"{_METHOD_RESPONSE}{status}/?$rid={request_id}"


# Hub to device ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceboundTopic:
    """A cloud-to-device message."""

    device: str
    properties: str = ""


@dataclass(frozen=True, slots=True)
class InputTopic:
    """A message routed to an input of a module."""

    device: str
    module: str
    input: str
    properties: str = ""


@dataclass(frozen=True, slots=True)
class MethodRequestTopic:
    """A direct method call."""

    method: str
    request_id: str


@dataclass(frozen=True, slots=True)
class TwinResponseTopic:
    """The answer to a twin request; `version` is the new reported version after a patch."""

    status: int
    request_id: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class TwinDesiredTopic:
    """A change of the desired properties, which now have `version`."""

    version: int


DeliveryTopic = DeviceboundTopic | InputTopic | MethodRequestTopic | TwinResponseTopic | TwinDesiredTopic


def parse_delivery_topic(topic: str) -> DeliveryTopic:
    """What a hub publishes to. Raises TopicError."""
    if topic.startswith("devices/"):
        return _delivery(topic)
    if topic.startswith(_METHOD_REQUEST):
        method, _, query = topic[len(_METHOD_REQUEST) :].partition("/")
        if not _METHOD_NAME.fullmatch(method):
            raise _unknown(topic)
        return MethodRequestTopic(method, _request_id(topic, _query(topic, query)))
    if topic.startswith(_TWIN_RESPONSE):
        status, query = _status(topic, topic[len(_TWIN_RESPONSE) :])
        version = _version(topic, query) if "$version" in query else None
        return TwinResponseTopic(status, _request_id(topic, query), version)
    if topic.startswith(_TWIN_DESIRED):
        return TwinDesiredTopic(_version(topic, _query(topic, topic[len(_TWIN_DESIRED) :])))
    raise _unknown(topic)


def _delivery(topic: str) -> DeviceboundTopic | InputTopic:
    subject, devicebound, bag = topic.partition("/messages/devicebound/")
    if devicebound:
        device, module = _subject(topic, subject.split("/"))
        if module is None:
            return DeviceboundTopic(device, _bag(bag))
        raise _unknown(topic)
    subject, _, rest = topic.partition("/inputs/")
    device, module = _subject(topic, subject.split("/"))
    name, slash, bag = rest.partition("/")
    if module is None or not name or not slash:
        raise _unknown(topic)
    return InputTopic(device, module, name, _bag(bag))


def devicebound_topic(device: str, properties: str = "") -> str:
    """Where a cloud-to-device message goes. `$.to` is added unless it is there (hub specification 3.8)."""
    base = f"devices/{device}/messages/devicebound"
    if "$.to" not in parse_properties(properties):
        properties = add_property(properties, "$.to", f"/{base}")
    return f"{base}/{_one_level(properties)}"


def input_topic(device: str, module: str, name: str, properties: str = "") -> str:
    """Where a message for the module's input `name` goes; it ends with `/` when there are no properties."""
    return f"{_base(device, module)}/inputs/{name}/{_one_level(properties)}"


def method_request_topic(method: str, request_id: str) -> str:
    """Where a direct method is called; `method` must be unreserved characters."""
    return f"{_METHOD_REQUEST}{method}/?$rid={request_id}"


def twin_response_topic(status: int, request_id: str, version: int | None = None) -> str:
    """Where a twin request is answered."""
    suffix = "" if version is None else f"&$version={version}"
    return f"{_TWIN_RESPONSE}{status}/?$rid={request_id}{suffix}"


def twin_desired_topic(version: int) -> str:
    """Where a change of the desired properties is told."""
    return f"{_TWIN_DESIRED}?$version={version}"


# Filters ------------------------------------------------------------------------------------------------------------


class SubscriptionKind(StrEnum):
    """What a subscription is for."""

    C2D = "c2d"
    INPUTS = "inputs"
    METHODS = "methods"
    TWIN_RESPONSES = "twin-responses"
    TWIN_DESIRED = "twin-desired"


@dataclass(frozen=True, slots=True)
class Subscription:
    """A filter's meaning. `device` is None where the filter is about whoever subscribes."""

    kind: SubscriptionKind
    device: str | None = None
    module: str | None = None


_OWN_FILTERS = {
    f"{_METHOD_REQUEST}#": Subscription(SubscriptionKind.METHODS),
    f"{_TWIN_RESPONSE}#": Subscription(SubscriptionKind.TWIN_RESPONSES),
    f"{_TWIN_DESIRED}#": Subscription(SubscriptionKind.TWIN_DESIRED),
}
_FILTERS_BY_KIND = {subscription.kind: topic_filter for topic_filter, subscription in _OWN_FILTERS.items()}


def parse_filter(topic_filter: str) -> Subscription:
    """What a client may subscribe to. Raises TopicError."""
    own = _OWN_FILTERS.get(topic_filter)
    if own is not None:
        return own
    levels = topic_filter.split("/")
    if levels[2:] == ["messages", "devicebound", "#"]:
        device, _ = _subject(topic_filter, levels[:2])
        return Subscription(SubscriptionKind.C2D, device)
    if levels[4:] in (["inputs", "#"], ["#"]):
        device, module = _subject(topic_filter, levels[:4])
        return Subscription(SubscriptionKind.INPUTS, device, module)
    raise _unknown(topic_filter)


def filter_for(subscription: Subscription) -> str:
    """The filter that a client sends for `subscription`, which names its device where the kind has one."""
    if subscription.kind is SubscriptionKind.C2D:
        return f"devices/{subscription.device}/messages/devicebound/#"
    if subscription.kind is SubscriptionKind.INPUTS:
        return f"devices/{subscription.device}/modules/{subscription.module}/inputs/#"
    return _FILTERS_BY_KIND[subscription.kind]


# Parts --------------------------------------------------------------------------------------------------------------


def _unknown(topic: str) -> TopicError:
    return TopicError(f"{topic[:140]!r} is not offered")


def _base(device: str, module: str | None) -> str:
    return f"devices/{device}" if module is None else f"devices/{device}/modules/{module}"


def _subject(topic: str, levels: list[str]) -> tuple[str, str | None]:
    """`devices/{d}` or `devices/{d}/modules/{m}`."""
    names = levels[1::2]
    if levels[::2] not in (["devices"], ["devices", "modules"]) or len(levels) % 2 or not all(map(mqtt_usable, names)):
        raise _unknown(topic)
    return names[0], names[1] if len(names) > 1 else None


def _bag(text: str) -> str:
    """A bag without what some clients put around it: a question mark before it, one slash after it."""
    return text.removeprefix("?").removesuffix("/")


def _one_level(bag: str) -> str:
    """SDKs split topics at slashes: a raw one would cut the bag."""
    return bag.replace("/", "%2F")


def _query(topic: str, text: str) -> str:
    if not text.startswith("?"):
        raise _unknown(topic)
    return text


def _status(topic: str, text: str) -> tuple[int, str]:
    status, _, query = text.partition("/")
    if not _STATUS.fullmatch(status):
        raise _unknown(topic)
    return int(status), _query(topic, query)


def _parameter(topic: str, query: str, name: str) -> str:
    """The raw text of one parameter: it goes back as it came."""
    for pair in query[1:].split("&"):
        key, _, value = pair.partition("=")
        if key in (name, f"%24{name[1:]}"):
            return value
    raise _unknown(topic)


def _request_id(topic: str, query: str) -> str:
    request_id = _parameter(topic, query, "$rid")
    if not 0 < len(request_id) <= REQUEST_ID_CHARACTERS:
        raise _unknown(topic)
    return request_id


def _version(topic: str, query: str) -> int:
    version = _parameter(topic, query, "$version")
    if not _VERSION.fullmatch(version):
        raise _unknown(topic)
    return int(version)
