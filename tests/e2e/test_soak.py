"""`make soak`, shorter and with fewer devices."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from soak import Soak, table

MINUTES, DEVICES, RATE = 2.0, 400, 80.0


@pytest.mark.timeout(500)
def test_nothing_is_lost_dropped_or_refused_under_everything_at_once(tmp_path: Path) -> None:
    lines = Soak(tmp_path, MINUTES, DEVICES, RATE, lambda text: print(text, file=sys.stderr)).run()
    assert [one.name for one in lines if not one.holds] == [], "\n" + table(lines)
