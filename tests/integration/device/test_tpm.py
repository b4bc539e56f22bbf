"""The TPM of a device whose hierarchies have passwords, which nobody else on the machine gets to see."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgetrust.device.tpm import Tpm, TpmPlace
from edgetrust.errors import UnavailableError
from edgetrust.pki.keys import SecretText
from support.tpm import Tpm as Chip

OWNER, ENDORSEMENT = "own er", "hex:00ff"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that are run, with their arguments and variables."""
    seen: list[list[str]] = []
    original = subprocess.run

    def noted(command: list[str], **options: Any) -> Any:
        seen.append([*command, *options["env"].values()])
        return original(command, **options)

    monkeypatch.setattr(subprocess, "run", noted)
    return seen


def test_passwords_are_no_arguments(tmp_path: Path, ran: list[list[str]]) -> None:
    with Chip(tmp_path / "tpm") as chip:
        expected = chip.keys()
        chip.tool("changeauth", "-c", "o", OWNER)
        chip.tool("changeauth", "-c", "e", f"str:{ENDORSEMENT}")
        ran.clear()

        def tpm(owner: str) -> Tpm:
            place = TpmPlace(f"swtpm:path={chip.socket}", 256, SecretText(owner), SecretText(ENDORSEMENT))
            return Tpm(place)

        held = tpm(OWNER)
        held.answers()
        assert held.keys() == expected
        assert [words[0] for words in ran].count("tpm2_createek") == 1
        assert not [word for words in ran for word in words if OWNER in word or ENDORSEMENT in word]
        with pytest.raises(UnavailableError) as caught:
            tpm("wrong").keys()
        assert caught.value.reason == "tpm-failed"
