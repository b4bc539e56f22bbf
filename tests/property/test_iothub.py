"""Laws of names, topics, property bags and bodies: what is written is read, and garbage is one documented error."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from edgetrust.errors import Error
from edgetrust.protocol import registry
from edgetrust.protocol.iothub import (
    ConnectionString,
    ConnectionStringError,
    DeviceboundTopic,
    InputTopic,
    TelemetryTopic,
    TopicError,
    UserName,
    UserNameError,
    add_property,
    devicebound_topic,
    format_connection_string,
    format_properties,
    format_user_name,
    input_topic,
    mqtt_usable,
    parse_connection_string,
    parse_delivery_topic,
    parse_filter,
    parse_properties,
    parse_publish_topic,
    parse_user_name,
    telemetry_topic,
    valid_identifier,
)
from edgetrust.protocol.registry import AuthenticationType, BodyError

identifiers = st.text(string.ascii_letters + string.digits + "-:.%_*!(),@$'", min_size=1, max_size=128)
words = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=30)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
bags = st.dictionaries(texts.filter(bool), st.none() | texts, max_size=6)
scraps = st.lists(
    st.sampled_from(
        [
            "/",
            "?",
            "&",
            "=",
            "%",
            "$rid=",
            "devices",
            "modules",
            "messages/events",
            "d",
            "$iothub/twin/GET",
            "#",
            "+",
            ";",
            "HostName=",
            "api-version=2021-04-12",
            "\0",
            "é",
        ]
    ),
    max_size=12,
).map("".join)


@given(bags)
def test_bags(properties: dict[str, str | None]) -> None:
    assert parse_properties(format_properties(properties)) == properties


@given(bags, texts.filter(bool), texts)
def test_an_added_property_counts(properties: dict[str, str | None], name: str, value: str) -> None:
    assert parse_properties(add_property(format_properties(properties), name, value)) == {**properties, name: value}


@given(st.text() | scraps)
def test_every_text_is_a_bag(text: str) -> None:
    assert isinstance(parse_properties(text), dict)


@given(identifiers, st.none() | identifiers, bags)
def test_topics(device: str, module: str | None, properties: dict[str, str | None]) -> None:
    bag = format_properties(properties)
    assert parse_publish_topic(telemetry_topic(device, module, bag)) == TelemetryTopic(device, module, bag)
    delivered = parse_delivery_topic(devicebound_topic(device, bag))
    assert isinstance(delivered, DeviceboundTopic)
    to = f"/devices/{device}/messages/devicebound"
    assert parse_properties(delivered.properties) == {"$.to": to, **properties}
    if module is not None:
        assert parse_delivery_topic(input_topic(device, module, "in", bag)) == InputTopic(device, module, "in", bag)


@given(st.text() | scraps)
def test_other_topics_are_the_one_error(text: str) -> None:
    for parse in (parse_publish_topic, parse_delivery_topic, parse_filter):
        try:
            parse(text)
        except TopicError as problem:
            assert problem.reason == "topic-not-offered"


@given(
    words,
    identifiers,
    st.none() | identifiers,
    st.dictionaries(words.filter(lambda word: word not in ("api-version", "auth-chain")), texts, max_size=3),
    st.lists(identifiers, max_size=5).map(tuple),
)
def test_user_names(
    host: str, device: str, module: str | None, parameters: dict[str, str], chain: tuple[str, ...]
) -> None:
    name = UserName(host, device, module, "2021-04-12", parameters, chain)
    assert parse_user_name(format_user_name(name)) == name


@given(st.text() | scraps)
def test_other_user_names_are_the_one_error(text: str) -> None:
    try:
        name = parse_user_name(text)
    except UserNameError as problem:
        assert problem.reason == "user-name-malformed"
    else:
        assert valid_identifier(name.device)


@given(words, identifiers, st.none() | identifiers, st.none() | words)
def test_connection_strings(host: str, device: str, module: str | None, gateway: str | None) -> None:
    value = ConnectionString(host, device, module, "QUJD", None, gateway)
    assert parse_connection_string(format_connection_string(value)) == value


@given(st.text() | scraps)
def test_other_connection_strings_are_the_one_error(text: str) -> None:
    try:
        parse_connection_string(text)
    except Error as problem:
        assert isinstance(problem, ConnectionStringError)


@given(st.text(max_size=140))
def test_identifiers_are_total(text: str) -> None:
    assert valid_identifier(text) or not mqtt_usable(text)


json_scraps = st.lists(
    st.sampled_from(
        [
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b",",
            b"null",
            b"1e999",
            b'"d"',
            b'"deviceId"',
            b'"authChain"',
            b'"\\ud800"',
            b'"authentication"',
            b'"type"',
            b'"sas"',
            b"\xff",
            b"true",
            b'"moduleId"',
        ]
    ),
    max_size=14,
).map(b"".join)


@given(st.binary(max_size=60) | json_scraps)
def test_other_bodies_are_the_one_error(data: bytes) -> None:
    for parse in (
        registry.parse_device,
        registry.parse_module,
        registry.parse_modules,
        registry.parse_scope_listing,
        registry.parse_scope_request,
        registry.parse_scope_lookup,
        registry.parse_on_behalf_request,
    ):
        try:
            parse(data)
        except BodyError as problem:
            assert problem.code in registry.ERROR_NUMBERS


@given(identifiers, st.sampled_from(AuthenticationType), st.none() | texts, st.none() | texts)
def test_bodies(device: str, kind: AuthenticationType, primary: str | None, secondary: str | None) -> None:
    keys = registry.SymmetricKeyBody(primary or None, secondary or None)
    body = registry.DeviceBody(device, authentication=registry.AuthenticationBody(keys, None, kind))
    assert registry.parse_device(registry.encode_body(body)) == body


@given(identifiers, st.text(string.digits, min_size=1, max_size=18))
def test_device_scopes(device: str, generation: str) -> None:
    assert registry.parse_scope_id(registry.scope_id(device, generation)) == (device, generation)
