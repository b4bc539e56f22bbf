"""Pages are followed to the letter, and whoever follows them notices when one is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from support.console import Command, PageError, Reader, commands, matches
from support.pages import ROOT, blocks, pages

RUNNABLE = [page for page in pages() if any(block.marker == "run" for block in blocks(page.read_text()))]


@cache
def own_network() -> list[str]:
    """What gives a page a network of its own, in which its ports are free; nothing where that is not allowed."""
    for prefix in (["unshare", "--net"], ["unshare", "--net", "--map-root-user"]):
        command = [*prefix, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    follow = [*own_network(), sys.executable, "-m", "support.console", str(page), str(tmp_path)]
    done = subprocess.run(follow, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The reader itself --------------------------------------------------------------------------------------------------


def page_of(*lines: str, marker: str = "<!-- run -->") -> str:
    return "\n".join(["Text.", "", marker, "```console", *lines, "```", ""])


def follow(page: str, directory: Path) -> Reader:
    reader = Reader(directory)
    reader.follow(page)
    return reader


def test_commands_are_told_from_output() -> None:
    (block,) = blocks(
        page_of("$ one \\", ">   two", "out", "", "put", "$ cat <<'END'", "$ not a command", "END", "shown")
    )
    assert list(commands(block)) == [
        Command("one \\\n  two", "out\n\nput"),
        Command("cat <<'END'\n$ not a command\nEND", "shown"),
    ]


def test_output_without_a_command_is_a_mistake() -> None:
    (block,) = blocks(page_of("lost"))
    with pytest.raises(PageError, match="output without a command"):
        list(commands(block))


@pytest.mark.parametrize(
    ("shown", "came", "same"),
    [
        ("a", "a\n", True),
        ("a", "b", False),
        ("a ... c", "a b\nb c", True),
        ("...\nend", "one\ntwo\nend", True),
        ("a", "a and more", False),
        ("1.5 (x)", "1.5 (x)", True),
        ("1.5", "1x5", False),
    ],
)
def test_dots_stand_for_anything(shown: str, came: str, same: bool) -> None:
    assert matches(shown, came) is same


def test_variables_and_directory_carry_over(tmp_path: Path) -> None:
    follow(
        page_of(
            "$ export NAME='a b'", "$ mkdir -p 'd e' && cd 'd e'", '$ echo "$NAME in $(basename "$PWD")"', "a b in d e"
        ),
        tmp_path,
    )


def test_a_block_without_marker_does_not_run(tmp_path: Path) -> None:
    follow(page_of("$ false", marker=""), tmp_path)


def test_other_output_than_shown_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="other output than shown"):
        follow(page_of("$ echo yes", "no"), tmp_path)


def test_a_failing_command_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="exit code 3 instead of 0"):
        follow(page_of("$ (exit 3)"), tmp_path)


def test_an_expected_failure_is_no_failure(tmp_path: Path) -> None:
    follow(page_of("$ true", "$ (exit 3)", marker='<!-- run: exit="3" -->'), tmp_path)


def test_what_runs_in_the_background_is_waited_for_and_stopped(tmp_path: Path) -> None:
    stays = page_of("$ sh -c 'echo ready; exec sleep 60' &", marker='<!-- run: until="ready" -->')
    reader = follow(stays + page_of("$ echo next"), tmp_path)
    assert reader.transcript[-1] == "ready\n"


def test_what_stays_running_must_print_what_is_shown(tmp_path: Path) -> None:
    stays = page_of("$ sh -c 'echo ready; exec sleep 60'", "steady", marker='<!-- run: until="ready" -->')
    with pytest.raises(PageError, match="other output than shown"):
        follow(stays, tmp_path)


def test_what_ends_before_it_is_ready_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="no 'ready' in its output"):
        follow(page_of("$ sh -c 'echo broken' &", marker='<!-- run: until="ready" -->'), tmp_path)


def test_files_are_written_as_shown(tmp_path: Path) -> None:
    page = "<!-- file: sub/one.toml -->\n```toml\nkey = 1\n```\n" + page_of("$ cat sub/one.toml", "key = 1")
    follow(page, tmp_path)


def test_another_command_may_stand_in(tmp_path: Path) -> None:
    follow(page_of("$ make demo", "done", marker='<!-- run: as="echo done" -->'), tmp_path)
