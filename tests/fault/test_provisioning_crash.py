"""A provisioning service that is killed while a fleet registers: every device is assigned exactly once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.pages import ROOT


@pytest.mark.timeout(300)
def test_a_fleet_registers_while_the_service_is_killed_twice() -> None:
    """The program of the hand-run measurement with 10,000 devices, with fewer."""
    command = [sys.executable, str(ROOT / "bench" / "provisioning.py"), "--devices", "45", "--kills", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["devices"], found["kills"], found["disagreements"]) == (45, 2, [])
    assert found["tries"] > 45  # some were in work when it was killed
