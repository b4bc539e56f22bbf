"""Commands for shared access policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]
POLICY = {"name": "p", "rights": ["RegistryRead"], "primaryKey": "cHJpbWFyeQ==", "secondaryKey": "c2Vjb25kYXJ5"}


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust("hub", "policy", *arguments, "--dir", hub.directory)


def test_create_and_update(call: Call, hub: Any) -> None:
    hub.answer("PUT", "/edgetrust/policies/p", POLICY)
    outcome = call("create", "p", "--right", "registryread", "--right", "ServiceConnect")
    assert outcome.code == 0
    assert POLICY["primaryKey"] not in outcome.out
    assert hub.asked[0]["body"] == {"rights": ["RegistryRead", "ServiceConnect"]}
    assert "If-Match" not in hub.asked[0]["headers"]
    assert call("update", "p", "--right", "RegistryRead", "--keys", "--json").json() == POLICY
    assert hub.asked[1]["headers"]["If-Match"] == '"*"'


def test_a_right_that_is_none(call: Call, hub: Any) -> None:
    outcome = call("create", "p", "--right", "Everything")
    assert outcome.code == 2
    assert "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect" in outcome.err
    assert call("create", "p").code == 2
    assert hub.asked == []


def test_list_and_show(call: Call, hub: Any) -> None:
    hub.answer("GET", "/edgetrust/policies", {"policies": [{"name": "p", "rights": ["RegistryRead"]}]})
    hub.answer("GET", "/edgetrust/policies/p", POLICY)
    assert call("list").out.splitlines()[1].split() == ["p", "RegistryRead"]
    assert call("list", "--json").json() == [{"name": "p", "rights": ["RegistryRead"]}]
    assert "primaryKey" not in call("show", "p", "--json").json()
    assert POLICY["primaryKey"] in call("show", "p", "--keys").out


def test_roll_key_and_delete(call: Call, hub: Any) -> None:
    hub.answer("POST", "/edgetrust/policies/p/rollKey", POLICY)
    hub.answer("DELETE", "/edgetrust/policies/p", None, 204)
    assert call("roll-key", "p", "--swap").code == 0
    assert hub.asked[0]["body"] == {"key": "swap"}
    assert call("roll-key", "p").code == 2
    assert call("delete", "p").code == 0


def test_the_connection_string_has_the_port(call: Call, hub: Any) -> None:
    hub.answer("GET", "/edgetrust/policies/p", POLICY)
    assert call("connection-string", "p", "--secondary").out == (
        f"HostName=localhost:{hub.port};SharedAccessKeyName=p;SharedAccessKey={POLICY['secondaryKey']}\n"
    )
    assert "connectionString" in call("connection-string", "p", "--json").json()
