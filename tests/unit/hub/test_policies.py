"""Shared access policies in one private file."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.hub.policies import DEFAULT_RIGHTS, OWNER, connection_string, load_policies
from edgetrust.protocol.iothub import parse_connection_string
from edgetrust.trust.policies import Right


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policies.json"


def test_made_once_and_kept(file: Path) -> None:
    made = load_policies(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(made) == {"iothubowner", "service", "device", "registryRead", "registryReadWrite"}
    assert {name: policy.rights for name, policy in made.items()} == dict(DEFAULT_RIGHTS)
    keys = {key.reveal() for policy in made.values() for key in (policy.keys.primary, policy.keys.secondary)}
    assert len(keys) == 10
    assert {len(key) for key in keys} == {32}
    assert load_policies(file) == made


def test_the_owner_may_everything(file: Path) -> None:
    assert load_policies(file)[OWNER].rights == frozenset(Right)


def test_a_connection_string_that_clients_read(file: Path) -> None:
    policy = load_policies(file)[OWNER]
    parsed = parse_connection_string(connection_string("localhost:8443", policy))
    assert (parsed.host_name, parsed.policy) == ("localhost:8443", OWNER)
    assert base64.b64decode(parsed.key or "") == policy.keys.primary.reveal()
    assert policy.keys.primary.reveal().hex() not in repr(policy)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "\udcff"])
def test_a_file_that_holds_none(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IntegrityError) as caught:
        load_policies(file)
    assert caught.value.reason == "policies-unreadable"


@pytest.mark.parametrize("size", [0, 15, 65])
def test_keys_that_are_none(file: Path, size: int) -> None:
    """An empty key would let everybody sign."""
    key = base64.b64encode(b"k" * size).decode()
    file.write_text(json.dumps({"weak": {"primary": key, "secondary": key, "rights": ["ServiceConnect"]}}))
    with pytest.raises(IntegrityError):
        load_policies(file)


def test_policies_of_ones_own(file: Path) -> None:
    key = base64.b64encode(b"k" * 16).decode()
    file.write_text(json.dumps({"mine": {"primary": key, "secondary": key, "rights": ["ServiceConnect"]}}))
    assert load_policies(file)["mine"].rights == {Right.SERVICE_CONNECT}


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policies(tmp_path)  # a directory
    assert str(tmp_path) in caught.value.message
    assert caught.value.fix
