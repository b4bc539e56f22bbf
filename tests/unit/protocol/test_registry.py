"""Registry bodies as clients send them, as hubs answer, and what is neither."""

from __future__ import annotations

import json

import pytest

from edgetrust.protocol import registry
from edgetrust.protocol.registry import (
    IDENTITYD_API_VERSION,
    AuthenticationBody,
    AuthenticationType,
    BodyError,
    CapabilitiesBody,
    DeviceBody,
    ModuleBody,
    OnBehalfRequest,
    ScopeListing,
    ScopeLookup,
    ScopeRequest,
    Status,
    SymmetricKeyBody,
    ThumbprintBody,
    encode_body,
    etag_of,
    parse_device,
    parse_module,
    parse_modules,
    parse_on_behalf_request,
    parse_scope_id,
    parse_scope_listing,
    parse_scope_lookup,
    parse_scope_request,
    scope_id,
)

# Reading ------------------------------------------------------------------------------------------------------------


def test_python_creates_a_device_with_keys_to_generate() -> None:
    body = parse_device(
        b'{"deviceId":"d1","status":"enabled","authentication":{"symmetricKey":{"primaryKey":"","secondaryKey":""},'
        b'"type":"sas"},"capabilities":{"iotEdge":true}}'
    )
    authentication = AuthenticationBody(SymmetricKeyBody(None, None), None, AuthenticationType.SAS)
    assert body == DeviceBody(
        "d1", status=Status.ENABLED, authentication=authentication, capabilities=CapabilitiesBody(True)
    )


def test_python_creates_a_thumbprint_device() -> None:
    body = parse_device(
        b'{"deviceId":"d1","authentication":{"x509Thumbprint":{"primaryThumbprint":"AA","secondaryThumbprint":""},'
        b'"type":"selfSigned"}}'
    )
    assert body.authentication == AuthenticationBody(None, ThumbprintBody("AA", None), AuthenticationType.SELF_SIGNED)


def test_python_creates_a_child_by_authority() -> None:
    body = parse_device(
        b'{"deviceId":"d1","authentication":{"type":"certificateAuthority"},"capabilities":{"iotEdge":false},'
        b'"parentScopes":["ms-azure-iot-edge://a-1"]}'
    )
    assert body.parent_scopes == ["ms-azure-iot-edge://a-1"]
    assert body.capabilities == CapabilitiesBody(False)


@pytest.mark.parametrize(
    "data",
    [
        b'{"deviceId":"d1"}',
        b'{"deviceId":"d1","authentication":null,"capabilities":null,"status":null,"etag":null,"parentScopes":null}',
        b'{"deviceId":"d1","unknown":{"a":[1]},"deviceScope":null}',
    ],
)
def test_absent_and_null_are_the_same(data: bytes) -> None:
    assert parse_device(data) == DeviceBody("d1")


@pytest.mark.parametrize("text", ["selfSigned", "SelfSigned", "SELFSIGNED", "selfsigned"])
def test_letter_case_of_words(text: str) -> None:
    body = parse_device(json.dumps({"deviceId": "d", "status": "Disabled", "authentication": {"type": text}}).encode())
    assert body.authentication is not None
    assert body.authentication.type is AuthenticationType.SELF_SIGNED
    assert body.status is Status.DISABLED


def test_identityd_creates_and_updates_a_module() -> None:
    assert parse_module(b'{"moduleId":"m","managedBy":"IotEdge","deviceId":"d"}') == ModuleBody("m", "d", "IotEdge")
    body = parse_module(
        b'{"moduleId":"m","deviceId":"d","authentication":{"type":"sas",'
        b'"symmetricKey":{"primaryKey":"UA==","secondaryKey":"Uw=="}}}'
    )
    assert body.authentication is not None
    assert body.authentication.symmetric_key == SymmetricKeyBody("UA==", "Uw==")


def test_lists_of_modules() -> None:
    assert parse_modules(b'[{"moduleId":"m","deviceId":"d"}]') == [ModuleBody("m", "d")]
    with pytest.raises(BodyError):
        parse_modules(b"{}")


PARSERS = [
    parse_device,
    parse_module,
    parse_scope_listing,
    parse_scope_request,
    parse_scope_lookup,
    parse_on_behalf_request,
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "IotHubFormatError"),
        (b"{", "IotHubFormatError"),
        (b"not json", "IotHubFormatError"),
        (b'{"deviceId":"d","moduleId":"m","authChain":"d","targetDeviceId":"d"} x', "IotHubFormatError"),
        (b'{"unknown":' + b"[" * 100_000, "IotHubFormatError"),
        (b'{"deviceId":"\xff","moduleId":"\xff","authChain":"\xff","continuationLink":"\xff"}', "IotHubFormatError"),
        (b"null", "ArgumentInvalid"),
        (b"[]", "ArgumentInvalid"),
        (b'"d"', "ArgumentInvalid"),
        (b"\xef\xbb\xbf{}", "IotHubFormatError"),
    ],
)
def test_what_is_no_body(parse: object, data: bytes, code: str) -> None:
    assert callable(parse)
    with pytest.raises(BodyError) as caught:
        parse(data)
    assert (caught.value.reason, caught.value.status, caught.value.code) == ("body-malformed", 400, code)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"deviceId":null}',
        b'{"deviceId":7}',
        b'{"deviceId":""}',
        b'{"deviceId":"a b"}',
        b'{"deviceId":"d","status":"on"}',
        b'{"deviceId":"d","status":1}',
        b'{"deviceId":"d","authentication":{"type":"x509"}}',
        b'{"deviceId":"d","authentication":{"type":"password"}}',
        b'{"deviceId":"d","authentication":"sas"}',
        b'{"deviceId":"d","authentication":{"symmetricKey":{"primaryKey":1}}}',
        b'{"deviceId":"d","capabilities":{"iotEdge":"true"}}',
        b'{"deviceId":"d","parentScopes":"x"}',
    ],
)
def test_devices_that_are_none(data: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        parse_device(data)
    assert caught.value.code == "ArgumentInvalid"


def test_modules_that_are_none() -> None:
    for data in (b'{"moduleId":"m"}', b'{"deviceId":"d"}', b'{"moduleId":"a/b","deviceId":"d"}'):
        with pytest.raises(BodyError):
            parse_module(data)


def test_scope_requests() -> None:
    assert parse_scope_request(b'{"pageSize":100,"continuationLink":"","authChain":"c;e"}') == ScopeRequest("c;e", 100)
    assert parse_scope_request(b'{"authChain":"e/$edgeHub;e"}') == ScopeRequest("e/$edgeHub;e")
    for data in (b"{}", b'{"authChain":""}', b'{"authChain":"e","pageSize":0}', b'{"authChain":";"}'):
        with pytest.raises(BodyError):
            parse_scope_request(data)


def test_scope_lookups() -> None:
    data = b'{"targetDeviceId":"d","targetModuleId":null,"authChain":"d;e"}'
    assert parse_scope_lookup(data) == ScopeLookup("d;e", "d")
    assert parse_scope_lookup(data.replace(b"null", b'""')).target_module_id is None
    assert parse_scope_lookup(data.replace(b"null", b'"m"')).target_module_id == "m"
    for wrong in (data.replace(b'"d"', b'"a b"'), data.replace(b"null", b'"a b"'), b'{"authChain":"d"}'):
        with pytest.raises(BodyError):
            parse_scope_lookup(wrong)


def test_requests_on_behalf() -> None:
    put = parse_on_behalf_request(b'{"authChain":"c;e","module":{"moduleId":"m","deviceId":"c"}}')
    assert put == OnBehalfRequest("c;e", ModuleBody("m", "c"))
    assert parse_on_behalf_request(b'{"authChain":"c;e","targetModuleId":"m"}').target_module_id == "m"
    assert parse_on_behalf_request(b'{"authChain":"c;e","moduleId":"m"}').module_id == "m"
    for wrong in (
        b'{"authChain":"c;e","moduleId":"a b"}',
        b'{"authChain":"c;e","targetModuleId":"a b"}',
        b'{"authChain":"c;e","module":{"moduleId":"a b","deviceId":"c"}}',
        b'{"authChain":"c;e","module":{"moduleId":"m","deviceId":"a b"}}',
        b'{"moduleId":"m"}',
    ):
        with pytest.raises(BodyError):
            parse_on_behalf_request(wrong)


def test_scope_listings() -> None:
    assert parse_scope_listing(b"{}") == ScopeListing([], [])
    assert parse_scope_listing(b'{"devices":null,"modules":null,"continuationLink":""}') == ScopeListing([], [])
    listing = ScopeListing([DeviceBody("d")], [ModuleBody("m", "d")], "next")
    assert parse_scope_listing(encode_body(listing)) == listing


@pytest.mark.parametrize(
    ("header", "etag"),
    [
        (None, None),
        ("", None),
        ('""', None),
        ("*", "*"),
        ('"*"', "*"),
        ("AAA=", "AAA="),
        ('"AAA="', "AAA="),
        (' W/"A" ', "A"),
    ],
)
def test_if_match(header: str | None, etag: str | None) -> None:
    assert etag_of(header) == etag


# Writing ------------------------------------------------------------------------------------------------------------


def test_everything_is_said() -> None:
    body = json.loads(
        encode_body(DeviceBody("d", authentication=AuthenticationBody(SymmetricKeyBody(), ThumbprintBody())))
    )
    assert set(body) == {
        "deviceId", "generationId", "etag", "connectionState", "status", "statusReason", "connectionStateUpdatedTime",
        "statusUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount", "authentication", "capabilities",
        "deviceScope", "parentScopes",
    }  # fmt: skip
    assert body["authentication"] == {
        "symmetricKey": {"primaryKey": None, "secondaryKey": None},
        "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
        "type": None,
    }
    assert set(json.loads(encode_body(ScopeListing([], [])))) == {"devices", "modules", "continuationLink"}


def test_what_is_written_is_read() -> None:
    body = DeviceBody("d", "1", "e", status=Status.ENABLED, capabilities=CapabilitiesBody(True), parent_scopes=[])
    assert parse_device(encode_body(body)) == body


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (AuthenticationType.SAS, "sas"),
        (AuthenticationType.NONE, "none"),
        (AuthenticationType.SELF_SIGNED, "x509"),
        (AuthenticationType.CERTIFICATE_AUTHORITY, "x509"),
    ],
)
def test_the_dialect_of_identityd(kind: AuthenticationType, word: str) -> None:
    module = ModuleBody("m", "d", authentication=AuthenticationBody(type=kind))
    (listed,) = json.loads(encode_body([module], IDENTITYD_API_VERSION))
    assert listed["authentication"]["type"] == word
    assert json.loads(encode_body(module))["authentication"]["type"] == kind.value


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(
        DeviceBody("d", authentication=AuthenticationBody(SymmetricKeyBody("secret", "secret")))
    )


def test_device_scopes() -> None:
    assert scope_id("edge-1", "638") == "ms-azure-iot-edge://edge-1-638"
    assert parse_scope_id("ms-azure-iot-edge://edge-1-638") == ("edge-1", "638")


@pytest.mark.parametrize("text", ["", "edge-1", "ms-azure-iot-edge://", "ms-azure-iot-edge://edge", "ms-azure-iot-edge://e-",
                                  "ms-azure-iot-edge://-1", "ms-azure-iot-edge://a b-1"])  # fmt: skip
def test_no_device_scopes(text: str) -> None:
    with pytest.raises(BodyError) as caught:
        parse_scope_id(text)
    assert caught.value.code == "InvalidDeviceScope"


def test_public_names_exist() -> None:
    assert all(hasattr(registry, name) for name in registry.__all__)
