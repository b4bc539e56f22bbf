"""Shared access policies in one private file."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.hub.policies import DEFAULT_RIGHTS, OWNER, Policies, PolicyError, load_policies
from edgetrust.limits import POLICIES
from edgetrust.protocol.iothub import parse_connection_string
from edgetrust.store.policyfile import connection_string
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


# Changes ------------------------------------------------------------------------------------------------------------

READ = frozenset({Right.REGISTRY_READ})


async def refused(change: Any) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        await change
    return caught.value


async def test_a_change_is_in_the_file_and_heard(file: Path) -> None:
    policies = Policies(file)
    heard: list[set[str]] = []
    policies.listen(lambda: heard.append(set(load_policies(file))))
    made = await policies.create("reader", READ)
    assert policies["reader"] == made == load_policies(file)["reader"]
    assert file.stat().st_mode & 0o777 == 0o600
    await policies.delete("reader")
    assert "reader" not in policies
    assert heard == [{*DEFAULT_RIGHTS, "reader"}, set(DEFAULT_RIGHTS)]


async def test_keys_are_rolled_and_swapped(file: Path) -> None:
    policies = Policies(file)
    first = policies[OWNER].keys
    second = (await policies.roll_keys(OWNER, primary=True, secondary=False)).keys
    assert second.primary != first.primary
    assert second.secondary == first.secondary
    third = (await policies.swap_keys(OWNER)).keys
    assert (third.primary, third.secondary) == (second.secondary, second.primary)
    assert load_policies(file)[OWNER].keys == third
    assert policies[OWNER].rights == frozenset(Right)


async def test_rights_change_and_keys_stay(file: Path) -> None:
    policies = Policies(file)
    before = policies["service"]
    after = await policies.change_rights("service", READ)
    assert (after.keys, after.rights) == (before.keys, READ)


async def test_what_cannot_be_changed(file: Path) -> None:
    policies = Policies(file)
    assert (await refused(policies.delete(OWNER))).reason == "policy-protected"
    assert (await refused(policies.change_rights(OWNER, READ))).reason == "policy-protected"
    assert (await refused(policies.create("service", READ))).reason == "policy-already-exists"
    for name in ("", "a b", "a/b", "ä", "a" * 65):
        assert (await refused(policies.create(name, READ))).reason == "policy-name-malformed"
    for change in (
        policies.delete("x"),
        policies.swap_keys("x"),
        policies.roll_keys("x", primary=True, secondary=True),
        policies.change_rights("x", READ),
    ):
        assert (await refused(change)).reason == "policy-not-found"
    assert set(load_policies(file)) == set(DEFAULT_RIGHTS)


async def test_there_is_an_end(file: Path) -> None:
    policies = Policies(file)
    for number in range(POLICIES - len(policies)):
        await policies.create(f"p{number}", READ)
    assert (await refused(policies.create("one-more", READ))).reason == "too-many-policies"


async def test_many_at_once_lose_nothing(file: Path) -> None:
    policies = Policies(file)
    await asyncio.gather(*(policies.create(f"p{number}", READ) for number in range(10)))
    assert {f"p{number}" for number in range(10)} < set(load_policies(file))


async def test_a_change_that_cannot_be_stored_does_not_count(file: Path) -> None:
    policies = Policies(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match="directory"):
        await policies.create("reader", READ)
    assert "reader" not in policies
