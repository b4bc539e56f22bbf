"""hub.toml: what is understood, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrust.errors import ConfigError
from edgetrust.hub.settings import HubSettings, load_settings, sqlite_url

SMALLEST = """
[hub]
name = "Hub.Example"
[tls]
certificate = "hub.pem"
key = "/etc/hub.key"
trust_bundle = "roots.pem"
"""


def load(folder: Path, text: str) -> HubSettings:
    path = folder / "hub.toml"
    path.write_text(text, "utf-8")
    return load_settings(path)


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert str(folder / "hub.toml") in caught.value.message
    return caught.value


def test_the_smallest(tmp_path: Path) -> None:
    settings = load(tmp_path, SMALLEST)
    assert settings.name == "Hub.Example"
    assert (settings.certificate, settings.key) == (tmp_path / "hub.pem", Path("/etc/hub.key"))
    assert settings.trust_bundle == tmp_path / "roots.pem"
    assert settings.data == tmp_path
    assert settings.database == sqlite_url(tmp_path) == f"sqlite:///{tmp_path}/hub.sqlite"
    assert (settings.host, settings.mqtt_port, settings.https_port) == ("0.0.0.0", 8883, 443)
    assert settings.allow_edge_ca is False
    assert settings.hosts == {"hub.example"}


def test_everything(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        SMALLEST.replace(
            "[tls]",
            'aliases = ["10.0.0.7", "::1", "Hub"]\ndata = "state"\ndatabase = "postgresql://db/hub"\n'
            'allow_edge_ca = true\n[listen]\nhost = "::"\nmqtt_port = 18883\nhttps_port = 0\n[tls]',
        ),
    )
    assert settings.hosts == {"hub.example", "10.0.0.7", "::1", "[::1]", "hub"}
    assert settings.data == tmp_path / "state"
    assert settings.database == "postgresql://db/hub"
    assert settings.allow_edge_ca is True
    assert (settings.host, settings.mqtt_port, settings.https_port) == ("::", 18883, 0)


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        (("name =", "nmae ="), "config-unknown-key", "'hub.nmae'"),
        (("[tls]", "[tsl]"), "config-unknown-key", "'tsl'"),
        (('name = "Hub.Example"', "name = 7"), "config-wrong-value", "name"),
        (('name = "Hub.Example"', 'name = " "'), "config-wrong-value", "empty"),
        (('key = "/etc/hub.key"', ""), "config-wrong-value", "key"),
        (("[tls]", "[listen]\nmqtt_port = 70000\n[tls]"), "config-wrong-value", "65535"),
        (("[tls]", "[listen]\nmqtt_port = -1\n[tls]"), "config-wrong-value", "mqtt_port"),
        (("[tls]", '[listen]\nhttps_port = "443"\n[tls]'), "config-wrong-value", "https_port"),
        (("[tls]", "[tls"), "config-not-toml", "TOML"),
    ],
)
def test_what_is_wrong(tmp_path: Path, change: tuple[str, str], reason: str, said: str) -> None:
    problem = refused(tmp_path, SMALLEST.replace(*change))
    assert problem.reason == reason
    assert said in problem.message
    assert problem.exit_code == 2


def test_the_nearest_key_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, SMALLEST.replace("name =", "nmae =")).fix == "did you mean 'name'?"
    assert "known here" in refused(tmp_path, SMALLEST.replace("name =", "zzzz =")).fix


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "none.toml")
    assert caught.value.reason == "config-missing"
