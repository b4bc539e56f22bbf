"""TOML files: unknown keys are named with their nearest, files that cannot be read with the command that mends it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from edgetrust.config import load_toml, parse_toml, read_text
from edgetrust.errors import ConfigError


class Inner(msgspec.Struct, frozen=True):
    depth: int = 0


class Outer(msgspec.Struct, frozen=True, rename="kebab"):
    title: str
    inner_table: Inner = Inner()
    named: dict[str, Inner] = {}
    maybe: Inner | None = None
    either: int | str = 0
    free: dict[str, object] = {}
    items: list[int] = []


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, Outer, "a.toml")
    assert caught.value.message.startswith("a.toml: ")
    return caught.value


def test_values() -> None:
    text = (
        'title = "t"\nitems = [1, 2]\n[inner-table]\ndepth = 3\n[named.a]\ndepth = 4\n[maybe]\ndepth = 5\n'
        "[free.x]\ny = 1\n"
    )
    found = parse_toml(text, Outer, "a.toml")
    assert (found.inner_table.depth, found.named["a"].depth, found.maybe, found.items) == (3, 4, Inner(5), [1, 2])
    assert found.free == {"x": {"y": 1}}


@pytest.mark.parametrize(
    ("text", "key", "fix"),
    [
        ('titel = "t"', "'titel'", "did you mean 'title'?"),
        ('title = "t"\n[inner-table]\ndept = 1', "'inner-table.dept'", "did you mean 'depth'?"),
        ('title = "t"\n[named.a]\nheight = 1', "'named.a.height'", "known here: depth"),
        ('title = "t"\n[maybe]\ndepht = 1', "'maybe.depht'", "did you mean 'depth'?"),
        ('title = "t"\n[inner_table]\ndepth = 1', "'inner_table'", "did you mean 'inner-table'?"),
    ],
)
def test_unknown_keys(text: str, key: str, fix: str) -> None:
    problem = refused(text)
    assert problem.reason == "config-unknown-key"
    assert key in problem.message
    assert problem.fix == fix


@pytest.mark.parametrize(
    "text",
    ["", "title = 1", 'title = "t"\nitems = ["x"]', 'title = "t"\ninner-table = 4', 'title = "t"\n[either]\nx = 1'],
)
def test_wrong_values(text: str) -> None:
    assert refused(text).reason == "config-wrong-value"


def test_no_toml() -> None:
    assert refused("title = ").reason == "config-not-toml"


class TestFiles:
    def test_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text('title = "ü"', "utf-8")
        assert load_toml(tmp_path / "a.toml", Outer).title == "ü"

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            read_text(tmp_path / "a.toml")
        assert (caught.value.reason, caught.value.fix) == ("config-missing", f"create {tmp_path}/a.toml")

    @pytest.mark.parametrize(("root", "command"), [(0, "chmod u+r "), (1000, "sudo chown ")])
    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: int, command: str) -> None:
        def forbidden(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_text", forbidden)
        monkeypatch.setattr(os, "geteuid", lambda: root)
        monkeypatch.setenv("LOGNAME", "somebody")
        with pytest.raises(ConfigError) as caught:
            read_text(tmp_path / "a.toml")
        assert caught.value.reason == "config-unreadable"
        assert "user somebody may not read" in caught.value.message
        assert caught.value.fix.startswith(command)
        assert str(tmp_path / "a.toml") in caught.value.fix

    def test_neither_file_nor_text(self, tmp_path: Path) -> None:
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        for path in (tmp_path, tmp_path / "binary"):
            with pytest.raises(ConfigError) as caught:
                read_text(path)
            assert caught.value.reason == "config-unreadable"
