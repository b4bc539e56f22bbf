"""A web service is told what ends soon: each end once, and again until it has taken it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgetrust.ca.forecast import Ending, in_use
from edgetrust.ca.notices import Notices
from edgetrust.ca.settings import Webhook, parse_settings
from edgetrust.errors import ConfigError, UnavailableError
from edgetrust.pki.keys import SecretText
from support.ca import CaWorld, csr
from support.pki import Pki
from support.receiver import receiving

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def ending(name: str, days: int) -> Ending:
    return Ending("device", name, "edge", "00", NOW + timedelta(days=days))


async def test_each_end_is_told_once(tmp_path: Path) -> None:
    pki = Pki(datetime.now(UTC))
    async with receiving(pki.server("localhost", "127.0.0.1"), tmp_path) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/ends"
        notices = Notices(Webhook(url, 30, pki.bundle, SecretText("Bearer of-tokens")))
        one, other = ending("dev1", 10), ending("dev2", 40)
        assert await notices.tell([one, other], NOW) == 1
        assert await notices.tell([one, other], NOW) == 0
        assert await notices.tell([one, other], NOW + timedelta(days=15)) == 1
        assert [[told["name"] for told in body["endings"]] for body in receiver.got] == [["dev1"], ["dev2"]]
        assert receiver.got[0] == {
            "days": 30,
            "endings": [
                {
                    "kind": "device",
                    "name": "dev1",
                    "authority": "edge",
                    "serial": "00",
                    "notAfter": "2026-01-11T00:00:00Z",
                    "toDo": None,
                }
            ],
        }
        assert receiver.headers[0]["Authorization"] == "Bearer of-tokens"


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_what_is_not_taken_is_told_again(tmp_path: Path, status: int) -> None:
    pki = Pki(datetime.now(UTC))
    async with receiving(pki.server("localhost", "127.0.0.1"), tmp_path) as receiver:
        receiver.statuses = [status]
        notices = Notices(Webhook(f"https://127.0.0.1:{receiver.port}/", 30, pki.bundle))
        with pytest.raises(UnavailableError, match=f"it answered {status}") as caught:
            await notices.tell([ending("dev1", 1)], NOW)
        assert caught.value.reason == "forecast-webhook"
        assert await notices.tell([ending("dev1", 1)], NOW) == 1
        assert len(receiver.got) == 1


async def test_a_service_of_another_ca_is_told_nothing(tmp_path: Path) -> None:
    async with receiving(Pki(datetime.now(UTC)).server("localhost", "127.0.0.1"), tmp_path) as receiver:
        stranger = Pki(datetime.now(UTC), root_name="Another").bundle
        notices = Notices(Webhook(f"https://127.0.0.1:{receiver.port}/", 30, stranger))
        with pytest.raises(UnavailableError) as caught:
            await notices.tell([ending("dev1", 1)], NOW)
        assert caught.value.reason == "forecast-webhook"
        assert receiver.got == []


async def test_what_to_do_about_a_ca_is_told(ca: CaWorld) -> None:
    await ca.issued(csr("dev1"), await ca.password())
    found = {one.name: one.to_do for one in await in_use(ca.authority)}
    assert found["dev1"] == ""
    assert found["<root>"] == "put a new root in its place: edgetrust ca rotate start root"


def test_where_it_is_told_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("Bearer x\n")
    text = '[forecast]\nwebhook = "https://ops.example/ends"\ndays = 14\nauthorization_file = "token"\n'
    found = parse_settings(text, tmp_path / "ca.toml").webhook
    assert found is not None
    assert (found.url, found.days, found.authorization and found.authorization.reveal()) == (
        "https://ops.example/ends", 14, "Bearer x",
    )  # fmt: skip
    assert parse_settings("", tmp_path / "ca.toml").webhook is None
    for url in ("http://ops.example/ends", "ops.example", "file:///etc/passwd"):
        with pytest.raises(ConfigError) as wrong:
            parse_settings(f'[forecast]\nwebhook = "{url}"\n', tmp_path / "ca.toml")
        assert wrong.value.reason == "webhook-url"
