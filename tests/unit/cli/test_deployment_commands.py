"""Commands for deployments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
CONTENT = {"modulesContent": {"$edgeAgent": {"properties.desired": {}}}}
STORED = {
    "id": "one",
    "priority": 3,
    "targetCondition": "*",
    "labels": {"a": "b"},
    "content": CONTENT,
    "etag": "MQ==",
    "systemMetrics": {"results": {"targetedCount": 2, "appliedCount": 1}},
}


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust("deployment", *arguments, "--dir", hub.directory)


def file(tmp_path: Path, content: Any) -> Path:
    made = tmp_path / "content.json"
    made.write_text(json.dumps(content))
    return made


@pytest.mark.parametrize("content", [CONTENT, {"content": CONTENT}])
def test_create(call: Call, hub: Any, tmp_path: Path, content: Any) -> None:
    hub.answer("PUT", "/configurations/one", STORED)
    outcome = call("create", "one", file(tmp_path, content), "--target", "*", "--priority", "3", "--label", "a=b")
    assert outcome.code == 0
    assert "applied     1" in outcome.out
    assert hub.asked[0]["body"] == {
        "id": "one",
        "content": CONTENT,
        "targetCondition": "*",
        "priority": 3,
        "labels": {"a": "b"},
    }


def test_list_show_update_delete_apply(call: Call, hub: Any, tmp_path: Path) -> None:
    hub.answer("GET", "/configurations", [STORED])
    hub.answer("GET", "/configurations/one", STORED)
    hub.answer("PUT", "/configurations/one", STORED)
    hub.answer("DELETE", "/configurations/one", None, 204)
    hub.answer("POST", "/devices/edge/applyConfigurationContent", None, 204)
    assert call("list").out.splitlines()[1].split() == ["one", "3", "*", "2", "1"]
    assert call("show", "one", "--json").json() == STORED
    assert call("update", "one", "--priority", "9").code == 0
    assert hub.asked[-1]["headers"]["If-Match"] == '"MQ=="'
    assert call("delete", "one").code == 0
    assert call("apply", "edge", file(tmp_path, CONTENT)).code == 0
    assert hub.asked[-1]["body"] == CONTENT


def test_a_file_that_holds_none(call: Call, hub: Any, tmp_path: Path) -> None:
    for content in ([], {}, {"modulesContent": 1}):
        assert call("create", "one", file(tmp_path, content)).code == 2
    assert call("create", "one", tmp_path / "missing").code == 2
    assert hub.asked == []
