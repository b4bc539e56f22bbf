"""Names that somebody may alert on, and the lines that carry them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import structlog

from edgetrust import telemetry
from edgetrust.telemetry import METRICS, set_up_logging

EVENTS = {name: value for name, value in vars(telemetry).items() if name.startswith("EVENT_")}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_event_names() -> None:
    assert len(set(EVENTS.values())) == len(EVENTS)
    for value in EVENTS.values():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", value)


def test_metric_names() -> None:
    names = [metric.name for metric in METRICS.collect()]
    assert len(names) == len(set(names))
    assert all(name.startswith("edgetrust_") for name in names)


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json")
    structlog.get_logger().info("service.ready", port=1)
    structlog.get_logger().debug("not shown")
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["port"], said["level"]) == ("service.ready", 1, "info")
    assert said["timestamp"].endswith("Z")


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", level="warning")
    structlog.get_logger().info("not shown")
    structlog.get_logger().warning("connection.refused", reason="disabled")
    err = capsys.readouterr().err
    assert "connection.refused" in err
    assert "reason=disabled" in err
    assert "not shown" not in err
    assert "\x1b[" not in err
