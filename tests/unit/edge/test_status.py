"""The state file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrust.edge.status import StateFile, describe_certificate, read_state
from edgetrust.errors import ConfigError, UnavailableError
from support.pki import NOW, Pki


def test_it_is_written_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    file = StateFile(path)
    file.write({"a": NOW, "b": [1]})
    before = path.stat().st_ino
    file.write({"b": [1], "a": NOW})
    assert path.stat().st_ino == before
    assert read_state(path) == {"a": NOW.isoformat(), "b": [1]}
    file.write({"a": 2})
    assert read_state(path) == {"a": 2}
    file.remove()
    file.remove()
    with pytest.raises(UnavailableError, match="no gateway runs here") as caught:
        read_state(path)
    assert caught.value.exit_code == 3


def test_what_is_no_state_file(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(UnavailableError, match="is no state file"):
        read_state(tmp_path / "status.json")
    with pytest.raises(ConfigError):
        read_state(tmp_path)


def test_a_certificate_in_it() -> None:
    chain = Pki().device("d").chain
    shown = describe_certificate("device-id", Path("/x"), chain, NOW)
    assert shown["subject"] == "CN=d"
    assert shown["thumbprint"] == chain.thumbprint().hex()
    assert not shown["expired"]
