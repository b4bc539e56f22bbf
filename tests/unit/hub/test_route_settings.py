"""Routes in hub.toml: what is understood, and what is said about the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgetrust.errors import ConfigError
from edgetrust.hub.endpoints import FileEndpoint, LogEndpoint, WebhookEndpoint
from edgetrust.hub.endpoints.nats import NatsEndpoint
from edgetrust.hub.settings import HubSettings, load_settings

BASE = """
[hub]
name = "hub"
[tls]
certificate = "c"
key = "k"
trust_bundle = "b"
"""
LOG = '[endpoints.e]\ntype = "log"\n'


def route(name: str = "r", endpoint: str = "e", more: str = "") -> str:
    return f'[[routes]]\nname = "{name}"\nendpoint = "{endpoint}"\n{more}\n'


def load(folder: Path, text: str) -> HubSettings:
    path = folder / "hub.toml"
    path.write_text(BASE + text, "utf-8")
    return load_settings(path)


def test_none(tmp_path: Path) -> None:
    assert load(tmp_path, "").routing.routes == ()


def test_every_type(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("Bearer x\n")
    settings = load(
        tmp_path,
        "".join(route(name, name) for name in ("l", "f", "w", "n"))
        + '[endpoints.l]\ntype = "log"\n[endpoints.f]\ntype = "file"\npath = "out.jsonl"\n'
        + '[endpoints.w]\ntype = "webhook"\nurl = "https://x.example/in"\n'
        + 'authorization_file = "secret"\nconcurrency = 9\n'
        + '[endpoints.n]\ntype = "nats"\nservers = ["tls://x:4222"]\nsubject = "a.{device}"\n'
        + '[endpoints.unused]\ntype = "webhook"\nurl = "https://x.example/"\nca = "missing.pem"\n',
    )
    opened = settings.routing.open_endpoints("hub", datetime.now(UTC))
    assert {name: type(endpoint) for name, endpoint in opened.items()} == {
        "l": LogEndpoint, "f": FileEndpoint, "w": WebhookEndpoint, "n": NatsEndpoint,
    }  # fmt: skip
    assert [endpoint.lanes for endpoint in opened.values()] == [1, 1, 9, 16]
    assert "Bearer" not in repr(vars(opened["w"]))


def test_disabled_routes_and_those_to_the_log_deliver_nowhere(tmp_path: Path) -> None:
    text = route("a", "events") + route("b", "e", "enabled = false") + route("c", "e", 'condition = "x = 1"') + LOG
    settings = load(tmp_path, text)
    assert [one.name for one in settings.routing.routes] == ["c"]


def test_the_fallback_leaves_what_any_enabled_route_takes(tmp_path: Path) -> None:
    text = '[routing]\nfallback = "e"\n' + route("a", "events", 'condition = "x"') + route("b", "e", "enabled = false")
    (fallback,) = load(tmp_path, text + LOG).routing.routes
    assert (fallback.name, fallback.fallback, [one.text for one in fallback.conditions]) == ("$fallback", True, ["x"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (route(endpoint="x") + LOG, "route 'r': there is no endpoint 'x'"),
        (route() + route() + LOG, "there are two routes 'r'"),
        (route("$fallback") + LOG, "there are two routes '$fallback'"),
        (route("") + LOG, "is no name of a route"),
        (route("x" * 65) + LOG, "is no name of a route"),
        (route(more='condition = "a b"') + LOG, "route 'r': the condition cannot be read at 'b'"),
        ("".join(route(f"r{n}") for n in range(101)) + LOG, "more than 100 routes"),
        ('[endpoints.events]\ntype = "log"\n', "endpoints.events is built in"),
        ('[routing]\nfallback = "x"\n', "routing.fallback: there is no endpoint 'x'"),
        ('[endpoints.w]\ntype = "webhook"\nurl = "http://x/"\n', "endpoints.w: url is no https address"),
        ('[endpoints.w]\ntype = "webhook"\nurl = "https://u:p@x/"\n', "endpoints.w: url is no https address"),
        ('[endpoints.n]\ntype = "nats"\nservers = ["nats://far:4222"]\nsubject = "a"\n', "no address of a NATS server"),
        ('[endpoints.n]\ntype = "nats"\nservers = []\nsubject = "a"\n', "servers or subject cannot be used"),
        ('[endpoints.n]\ntype = "nats"\nservers = ["tls://x"]\nsubject = "a.*"\n', "servers or subject cannot be used"),
        ('[endpoints.n]\ntype = "nats"\nservers = ["tls://x"]\nsubject = "{x}"\n', "unknown placeholder"),
        ('[endpoints.w]\ntype = "webhok"\n', "webhok"),
        ('[endpoints.w]\ntype = "webhook"\nurl = "https://x/"\nconcurrency = 100\n', "concurrency"),
        ('[endpoints.f]\ntype = "file"\npth = "x"\n', "unknown key 'endpoints.f.pth'"),
        ('[endpoints.f]\ntype = "file"\n', "path"),
        ('[endpoints.f]\ntype = "log"\npath = "x"\n', "path"),
        (route(more='begin = "now"') + LOG, "begin"),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in caught.value.message
    assert caught.value.message.startswith(str(tmp_path / "hub.toml"))


@pytest.mark.parametrize("more", ['ca = "missing.pem"', 'authorization_file = "missing"'])
def test_files_that_are_missing_are_seen_at_the_start(tmp_path: Path, more: str) -> None:
    settings = load(tmp_path, route() + f'[endpoints.e]\ntype = "webhook"\nurl = "https://x/"\n{more}\n')
    with pytest.raises(ConfigError):
        settings.routing.open_endpoints("hub", datetime.now(UTC))
