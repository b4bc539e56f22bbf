"""The kept inputs of `make fuzz` and a few mutations of them; and that it would notice, say and repeat a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import __main__ as fuzz
from fuzz.mutation import mutated
from fuzz.targets import TARGETS

_MUTATIONS = 60


def test_every_target_has_a_corpus_and_nothing_else_has() -> None:
    assert {folder.name for folder in fuzz.CORPUS.iterdir()} == set(TARGETS)
    assert all(fuzz.corpus(name) for name in TARGETS)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_only_documented_exceptions_come_out(name: str) -> None:
    run = fuzz.Run(name, TARGETS[name], seed=1)
    assert run.start(fuzz.corpus(name)) is None
    assert run.go_on(seconds=0) is None
    for data in _mutations(fuzz.corpus(name)):
        run.feed(data)
    assert run.inputs == len(fuzz.corpus(name)) + _MUTATIONS


def _mutations(pool: list[bytes]) -> list[bytes]:
    from random import Random

    random = Random(1)
    return [mutated(random, pool) for _ in range(_MUTATIONS)]


def test_a_fault_is_found_written_to_a_file_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fragile(data: bytes) -> None:
        if b"%" in data:
            raise ValueError("percent")

    (tmp_path / "corpus" / "fragile").mkdir(parents=True)
    (tmp_path / "corpus" / "fragile" / "one").write_bytes(b"harmless")
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path / "corpus")
    monkeypatch.setitem(TARGETS, "fragile", fragile)
    monkeypatch.chdir(tmp_path)
    assert fuzz.main(["--target", "fragile", "--seconds", "60", "--seed", "5"]) == 1
    (found,) = (tmp_path / "fuzz-found").iterdir()
    assert b"%" in found.read_bytes()
    assert f"python -m fuzz --target fragile {found.relative_to(tmp_path)}" in capsys.readouterr().out
    assert fuzz.main(["--target", "fragile", str(found)]) == 1
    assert "ValueError: percent" in capsys.readouterr().err
    found.write_bytes(b"mended")
    assert fuzz.main(["--target", "fragile", str(found)]) == 0


def test_what_reaches_new_lines_is_mutated_further_and_kept_if_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "topic").mkdir()
    (tmp_path / "topic" / "one").write_bytes(b"devices/d/messages/events/")
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path)
    run = fuzz.Run("topic", TARGETS["topic"], seed=1)
    kept = fuzz.corpus("topic")
    assert run.start(kept) is None
    assert run.feed(b"$iothub/twin/GET/?$rid=1")
    assert not run.feed(b"$iothub/twin/GET/?$rid=2")
    assert fuzz.main(["--target", "topic", "--seconds", "0.3", "--seed", "1", "--keep"]) == 0
    assert len(fuzz.corpus("topic")) > 1
