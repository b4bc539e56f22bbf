"""The compatibility page is what the tests saw: written by a run of all claims, checked by CI, else left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import ROOT
from support.surface import NODE_DEVICE, PYTHON_DEVICE, page, surface

PROJECT = """
from pathlib import Path
from support import surface

surface.PAGE = Path(__file__).parent / "compatibility.md"
pytest_configure = surface.watch
"""
TESTS = """
import pytest
from support.surface import NODE_DEVICE, PYTHON_DEVICE, surface

@surface(NODE_DEVICE, "twins", "methods")
@pytest.mark.parametrize("number", [1, 2])
def test_claims(number):
    pass

@surface(PYTHON_DEVICE, "twins")
def test_claims_too():
    {body}

def test_other():
    pass
"""


def run(folder: Path, *arguments: str, body: str = "pass", ci: str = "") -> tuple[int, str]:
    """Run a project of three tests with the hooks of this one; exit code and page."""
    (folder / "conftest.py").write_text(PROJECT)
    (folder / "test_it.py").write_text(TESTS.format(body=body))
    environment = {"PYTHONPATH": str(ROOT / "tests"), "PATH": "/usr/bin", "CI": ci}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    written = folder / "compatibility.md"
    print(done.stdout, done.stderr)
    return done.returncode, written.read_text() if written.exists() else ""


def test_a_whole_run_writes_it_and_ci_compares_it(tmp_path: Path) -> None:
    assert run(tmp_path, ci="true") == (1, "")
    code, text = run(tmp_path, "-n", "2")
    assert code == 0
    assert f"| {NODE_DEVICE} | [test_it.py](../../test_it.py): `test_claims` |" in text
    assert f"| {PYTHON_DEVICE} | [test_it.py](../../test_it.py): `test_claims_too` |" in text
    assert run(tmp_path, "-m", "surface", ci="true") == (0, text)


@pytest.mark.parametrize("arguments", [["-k", "claims"], ["test_it.py"]])
def test_a_part_of_a_run_leaves_it_alone(tmp_path: Path, arguments: list[str]) -> None:
    assert run(tmp_path, *arguments) == (0, "")


def test_what_was_skipped_is_not_claimed(tmp_path: Path) -> None:
    assert run(tmp_path, body="pytest.skip('no client')") == (1, "")


def test_every_entry_is_on_the_page() -> None:
    text = page({})
    assert text.count("| none yet |") == text.count("\n| 1") + sum(text.count(f"\n| {n}") for n in range(2, 10))
    assert "\n| 15 | AMQP" in text


def test_nothing_is_claimed_that_does_not_exist() -> None:
    for client, entry in (("azure-iot-sdk", "twins"), (NODE_DEVICE, "twin")):
        with pytest.raises(AssertionError):
            surface(client, entry)
