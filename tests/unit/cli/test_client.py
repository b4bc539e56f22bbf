"""The hub's answers become errors that say what to do; the hub itself is verified."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.client import HubClient, HubError, default_directory, find_hub, up_json
from edgetrust.cli.demo_pki import DemoPki
from edgetrust.errors import ConfigError, Error, RefusedError, UnavailableError, UsageError
from edgetrust.protocol.sas import parse_token, signature_matches

KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="
SERVICE = f"HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"


def ask(hub: Any, *path: str) -> Any:
    place = find_hub(hub.directory, None, None, None)

    async def get() -> Any:
        async with HubClient(place) as client:
            return await client.get(*path)

    return asyncio.run(get())


# Where the hub is ---------------------------------------------------------------------------------------------------


def test_a_directory_has_everything(hub: Any) -> None:
    place = find_hub(hub.directory, None, None, None)
    assert place.base_url == f"https://localhost:{hub.port}"
    assert (place.host_name, place.policy) == ("localhost", "iothubowner")
    assert KEY not in repr(place)


def test_a_url_with_a_connection_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "service"
    file.write_text(SERVICE + "\n")
    assert find_hub(None, "https://hub.example", file, None).base_url == "https://hub.example:443"
    assert find_hub(tmp_path, "hub.example:8443", file, None).base_url == "https://hub.example:8443"
    monkeypatch.setattr("sys.stdin", io.StringIO(SERVICE + "\n"))
    assert find_hub(None, "https://[::1]:8443", Path("-"), None).base_url == "https://[::1]:8443"


def test_the_hub_of_up_in_this_directory_is_the_default(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert default_directory() is None
    (here / "edgetrust-hub").symlink_to(hub.directory)
    assert find_hub(None, None, None, None).base_url == f"https://localhost:{hub.port}"


def test_a_port_in_the_connection_string_is_not_part_of_the_name(tmp_path: Path) -> None:
    file = tmp_path / "service"
    file.write_text(SERVICE.replace("localhost", "localhost:8443"))
    assert find_hub(None, "https://localhost:8443", file, None).host_name == "localhost"


@pytest.mark.parametrize(
    ("directory", "url", "text", "reason"),
    [
        (False, None, None, "hub-not-named"),
        (False, "https://hub.example", None, "hub-no-credentials"),
        (False, "ftp://hub.example", SERVICE, "hub-url"),
        (False, "https://hub.example", "nonsense", "connection-string-malformed"),
        (False, "https://h", f"HostName=h;DeviceId=d;SharedAccessKey={KEY}", "connection-string-not-service"),
        (True, None, None, "up-json-missing"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, directory: bool, url: str | None, text: str | None, reason: str
) -> None:
    file = tmp_path / "service"
    if text is not None:
        file.write_text(text)
    with pytest.raises((UsageError, ConfigError)) as caught:
        find_hub(tmp_path if directory else None, url, file if text is not None else None, None)
    assert caught.value.reason == reason
    assert caught.value.fix
    assert KEY not in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        find_hub(None, "https://h", tmp_path / "missing", None)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"hub": {}}', '{"hub": {"hostname": "h", "https_port": "x"}}'])
def test_an_odd_up_json_is_a_config_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "up.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        find_hub(tmp_path, None, None, None)
    assert caught.value.reason == "up-json-unreadable"


def test_up_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text('{"a": 1}')
    assert up_json(tmp_path) == {"a": 1}


# Asking -------------------------------------------------------------------------------------------------------------


def test_a_request_is_signed_and_encoded(hub: Any) -> None:
    hub.answer("GET", "/devices/a%2Fb%25", {"deviceId": "a/b%"})
    assert ask(hub, "devices", "a/b%") == {"deviceId": "a/b%"}
    asked = hub.asked[0]
    assert asked["query"]["api-version"] == "2021-04-12"
    token = parse_token(asked["headers"]["Authorization"])
    assert (token.resource, token.policy) == ("localhost", "iothubowner")
    assert signature_matches(token, b"0123456789abcdef")


def test_an_empty_answer_is_nothing(hub: Any) -> None:
    hub.answer("GET", "/devices/d", None, 204)
    assert ask(hub, "devices", "d") is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (404, {"Message": "ErrorCode:DeviceNotFound;no d"}, HubError, "device-not-found"),
        (409, {"Message": "ErrorCode:DeviceAlreadyExists;d exists"}, HubError, "device-already-exists"),
        (412, {"Message": "ErrorCode:PreconditionFailed;etag"}, HubError, "precondition-failed"),
        (400, {"Message": "something else"}, HubError, "something else"),
        (400, {"Other": 1}, HubError, "error"),
        (400, "no json", HubError, "error"),
        (401, {"Message": "ErrorCode:IotHubUnauthorized;no"}, RefusedError, "iot-hub-unauthorized"),
        (403, {"Message": "ErrorCode:GenericForbidden;no"}, RefusedError, "generic-forbidden"),
        (429, {"Message": "ErrorCode:ThrottlingException;slow"}, UnavailableError, "throttling-exception"),
        (503, {"Message": "ErrorCode:ServiceUnavailable;later"}, UnavailableError, "service-unavailable"),
        (200, "no json", UnavailableError, "hub-answer-malformed"),
    ],
)
def test_every_answer_has_its_error(hub: Any, status: int, body: Any, kind: type[Error], reason: str) -> None:
    hub.answer("GET", "/devices/d", body, status)
    with pytest.raises(kind) as caught:
        ask(hub, "devices", "d")
    assert caught.value.reason == reason


def test_a_hub_that_is_away(hub: Any) -> None:
    path = hub.directory / "up.json"
    up = json.loads(path.read_text())
    up["hub"]["https_port"] = 1
    path.write_text(json.dumps(up))
    with pytest.raises(UnavailableError) as caught:
        ask(hub, "devices", "d")
    assert caught.value.reason == "hub-unavailable"
    assert caught.value.exit_code == 3


def test_a_hub_that_is_not_trusted(hub: Any, demo: DemoPki) -> None:
    place = find_hub(hub.directory, None, None, demo.bad[4].material.certificate_file)

    async def get() -> Any:
        async with HubClient(place) as client:
            return await client.get("devices")

    with pytest.raises(RefusedError) as caught:
        asyncio.run(get())
    assert caught.value.reason == "server-untrusted"
    assert not hub.asked


def test_a_trust_bundle_without_certificates(hub: Any, tmp_path: Path) -> None:
    file = tmp_path / "empty.pem"
    file.touch()
    place = find_hub(hub.directory, None, None, file)

    async def get() -> Any:
        async with HubClient(place) as client:
            return await client.get("devices")

    with pytest.raises(ConfigError, match="holds no CA certificates"):
        asyncio.run(get())
