"""Connection strings."""

from __future__ import annotations

import pytest

from edgetrust.protocol.iothub import (
    ConnectionString,
    ConnectionStringError,
    format_connection_string,
    parse_connection_string,
)

KEY = "c2VjcmV0c2VjcmV0c2VjcmV0"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            f"HostName=h:8443;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}==",
            ConnectionString("h:8443", key=f"{KEY}==", policy="iothubowner"),
        ),
        (f"HostName=h;DeviceId=d=1;SharedAccessKey={KEY}", ConnectionString("h", "d=1", key=KEY)),
        (
            f"HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey={KEY};GatewayHostName=g",
            ConnectionString("h", "d", "m", KEY, gateway="g"),
        ),
        ("HostName=h;DeviceId=d;x509=true", ConnectionString("h", "d", x509=True)),
        ("HostName=h;DeviceId=d;x509=True;", ConnectionString("h", "d", x509=True)),
        (f" HostName=h;DeviceId=d;x509=false;SharedAccessKey={KEY}\n", ConnectionString("h", "d", key=KEY)),
    ],
)
def test_reading(text: str, value: ConnectionString) -> None:
    assert parse_connection_string(text) == value
    assert parse_connection_string(format_connection_string(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "h",
        "HostName",
        "HostName=h",
        "HostName=;DeviceId=d;x509=true",
        "DeviceId=d;x509=true",
        "HostName=h;DeviceId=d",
        "HostName=h;DeviceId=d;x509=yes",
        f"HostName=h;DeviceId=d;x509=true;SharedAccessKey={KEY}",
        "HostName=h;DeviceId=d;SharedAccessKey=",
        f"HostName=h;SharedAccessKey={KEY}",
        f"HostName=h;ModuleId=m;SharedAccessKey={KEY}",
        f"HostName=h;SharedAccessKeyName=p;ModuleId=m;SharedAccessKey={KEY}",
        f"HostName=h;DeviceId=d;SharedAccessKeyName=p;SharedAccessKey={KEY}",
        f"HostName=h;DeviceId=a b;SharedAccessKey={KEY}",
        f"HostName=h;DeviceId=d;ModuleId=m/n;SharedAccessKey={KEY}",
        f"HostName=h;HostName=g;DeviceId=d;SharedAccessKey={KEY}",
        f"hostname=h;DeviceId=d;SharedAccessKey={KEY}",
        f"HostName=h;DeviceId=d;Password=x;SharedAccessKey={KEY}",
        f"HostName={'h' * 5000};DeviceId=d;SharedAccessKey={KEY}",
    ],
)
def test_no_connection_strings(text: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse_connection_string(text)
    assert caught.value.reason == "connection-string-malformed"
    assert KEY not in caught.value.diagnosis()


def test_the_key_is_not_shown() -> None:
    assert KEY not in repr(parse_connection_string(f"HostName=h;DeviceId=d;SharedAccessKey={KEY}"))
