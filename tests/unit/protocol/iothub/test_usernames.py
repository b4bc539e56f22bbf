"""User names as the SDKs send them, and what is none."""

from __future__ import annotations

import pytest

from edgetrust.limits import AUTH_CHAIN_DEPTH, USER_NAME_BYTES
from edgetrust.protocol.iothub import UserName, UserNameError, format_user_name, parse_user_name

VERSION = "api-version=2021-04-12"


def test_the_python_sdk() -> None:
    text = (
        "localhost/d1/?api-version=2019-10-01&DeviceClientType="
        "azure-iot-device-iothub-py%2F2.14.0%283.11.7%3BLinux%3Bx86_64%29"
    )
    name = parse_user_name(text)
    assert (name.host, name.device, name.module, name.api_version) == ("localhost", "d1", None, "2019-10-01")
    assert name.parameters == {"DeviceClientType": "azure-iot-device-iothub-py/2.14.0(3.11.7;Linux;x86_64)"}
    assert name.client_id == "d1"


def test_the_node_sdk_with_a_module_and_a_port() -> None:
    name = parse_user_name(
        f"localhost:18883/d1/m1/?{VERSION}&model-id=dtmi%3Aa%3B1&DeviceClientType=azure-iot-device%2F1"
    )
    assert (name.host, name.client_id) == ("localhost:18883", "d1/m1")
    assert name.parameters["model-id"] == "dtmi:a;1"


@pytest.mark.parametrize(
    ("text", "device", "module"),
    [
        (f"h/d/?{VERSION}", "d", None),
        (f"h/d/{VERSION}", "d", None),
        (f"h/d/m/?{VERSION}", "d", "m"),
        (f"h/d/m/{VERSION}", "d", "m"),
        (f"h/d/$edgeHub/?{VERSION}", "d", "$edgeHub"),
        (f"h/d%201/?{VERSION}", "d%201", None),
        (f"h/d?x/?{VERSION}", "d?x", None),
        (f"h/d/?DeviceClientType=a/b&{VERSION}", "d", None),
        (f"h/d/DeviceClientType=a&{VERSION}", "d", None),
        (f"h/d/?{VERSION}&DeviceClientType=a/b", "d", None),
        (f"h/d/?&{VERSION}&&unknown&", "d", None),
        (f"[::1]:8883/d/?{VERSION}", "d", None),
        (f"Hub-1.azure-devices.net/d/?{VERSION}-preview", "d", None),
    ],
)
def test_shapes(text: str, device: str, module: str | None) -> None:
    name = parse_user_name(text)
    assert (name.device, name.module) == (device, module)


def test_a_chain() -> None:
    name = parse_user_name(f"h/leaf/?{VERSION}&auth-chain=leaf%3Bchild%3Bedge")
    assert name.auth_chain == ("leaf", "child", "edge")
    assert "auth-chain" not in name.parameters


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "h/d",
        "h/d/",
        "h/d/m",
        "h/d/m/",
        f"/d/?{VERSION}",
        f"h//?{VERSION}",
        f"h/d//?{VERSION}",
        f"h h/d/?{VERSION}",
        f"h:x/d/?{VERSION}",
        f"h\0/d/?{VERSION}",
        f"{'h' * 254}/d/?{VERSION}",
        f"h/d d/?{VERSION}",
        f"h/{'d' * 129}/?{VERSION}",
        f"h/d/m m/?{VERSION}",
        f"h/d/m/x/?{VERSION}",
        "h/d/?DeviceClientType=x",
        "h/d/?api-version=",
        "h/d/?api-version=latest",
        "h/d/?api-version=2021-04-12x",
        "h/d/?api-version=٢٠٢١-04-12",
        f"h/d/?{VERSION}&{VERSION}",
        f"h/d/?{VERSION}&a=1&a=2",
        f"h/d/?{VERSION}&auth-chain=",
        f"h/d/?{VERSION}&auth-chain=a%3B%3Bb",
        f"h/d/?{VERSION}&auth-chain={'%3B'.join('x' * (AUTH_CHAIN_DEPTH + 1))}",
        f"h/d/?{VERSION}&x={'x' * USER_NAME_BYTES}",
    ],
)
def test_no_user_names(text: str) -> None:
    with pytest.raises(UserNameError) as caught:
        parse_user_name(text)
    assert (caught.value.reason, caught.value.status) == ("user-name-malformed", 4)


def test_writing() -> None:
    name = UserName("h", "d", "m", "2021-04-12", {"DeviceClientType": "a/b"}, ("d/m", "d", "e"))
    text = "h/d/m/?api-version=2021-04-12&DeviceClientType=a%2Fb&auth-chain=d%2Fm%3Bd%3Be"
    assert format_user_name(name) == text
    assert parse_user_name(text) == name
    assert format_user_name(UserName("h", "d", None, "2021-04-12")) == "h/d/?api-version=2021-04-12"
