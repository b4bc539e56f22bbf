"""`edge apply`: everything is looked through before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgetrust.cli.main import run
from edgetrust.edge.apply import apply
from edgetrust.errors import ConfigError
from support.pki import Pki


def files(folder: Path, *, other_key: bool = False) -> Path:
    pki = Pki(datetime.now(UTC))
    identity = pki.device("EdgeGateway")
    (folder / "id.pem").write_text(identity.chain.pem())
    (folder / "id.key").write_bytes((pki.device("other") if other_key else identity).key_pem())
    (folder / "root.pem").write_text(pki.root.chain.pem())
    config = folder / "config.toml"
    config.write_text(f"""
hostname = "edgegateway.local"
trust_bundle_cert = "file://{folder}/root.pem"
[provisioning]
source = "manual"
iothub_hostname = "hub.example"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
identity_cert = "file://{folder}/id.pem"
identity_pk = "file://{folder}/id.key"
""")
    return config


def test_it_is_written_once_closed_to_others_and_warns_of_another_name(tmp_path: Path) -> None:
    config, root = files(tmp_path), tmp_path / "root"
    first = apply(config, root)
    assert first.changed
    assert first.path == root / "etc/aziot/config.toml"
    assert first.path.read_text() == config.read_text()
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert not apply(config, root).changed
    config.write_text(config.read_text().replace("edgegateway.local", "other.local"))
    again = apply(config, root)
    assert again.changed
    assert any("hostname was 'edgegateway.local'" in warning for warning in again.warnings)


@pytest.mark.parametrize("missing", ["id.pem", "id.key", "root.pem"])
def test_nothing_is_written_when_a_file_is_missing(tmp_path: Path, missing: str) -> None:
    config = files(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError):
        apply(config, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_nothing_is_written_when_a_key_is_anothers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(files(tmp_path, other_key=True), tmp_path / "root")
    assert caught.value.reason == "key-certificate-mismatch"


def test_the_command_and_what_reads_it_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, root = files(tmp_path), str(tmp_path / "root")
    assert run(["edge", "apply", "-c", str(config), "--root", root]) == 0
    assert "written" in capsys.readouterr().out
    assert run(["edge", "check", "--root", root]) == 1
    assert "ok       config-well-formed" in capsys.readouterr().out
    config.write_text("hostname = \n")
    assert run(["edge", "apply", "-c", str(config), "--root", root]) == 2
