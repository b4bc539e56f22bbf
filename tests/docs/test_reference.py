"""The reference describes the code as it is."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from edgetrust.trust.verdict import Reason
from support.pages import ROOT, anchors

PAGES = ["reasons.md", "cli.md", "metrics.md", "log-events.md", "limits.md"]


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_up_to_date(page: str) -> None:
    check = [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check", page]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_reason_has_an_anchor() -> None:
    known = anchors((ROOT / "docs" / "reference" / "reasons.md").read_text())
    assert {reason.value for reason in Reason} <= known


def test_every_log_event_says_when_it_is_logged() -> None:
    page = (ROOT / "docs" / "reference" / "log-events.md").read_text()
    assert re.findall(r"^\| (`\S+`) \|\s*\|$", page, re.MULTILINE) == [], "comment the constant in telemetry.py"


def test_what_is_locked_for_running_is_locked_the_same_for_development() -> None:
    pins = {
        name: set(re.findall(r"^\S+==\S+", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
        for name in ("run", "build", "dev")
    }
    assert pins["run"] | pins["build"] <= pins["dev"]
