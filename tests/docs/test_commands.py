"""Every `edgetrust` command that the documentation or an explanation names exists, with the options it is given."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.main import COMMANDS, load
from edgetrust.trust.explain import EXPLANATIONS
from edgetrust.trust.verdict import Reason
from support.pages import ROOT, blocks, pages

_COMMAND = re.compile(r"\bedgetrust ((?:[^`()|;\n$]|\.(?=\S))*)")
_OPTION = re.compile(r"(?<!\S)--?[a-z][a-z0-9-]*")
GENERATED = {"cli.md", "reasons.md"}


@cache
def command(name: str) -> Any:
    return load(name)


def faults(text: str) -> list[str]:
    """What is wrong with the commands in `text`."""
    found = []
    for typed in _COMMAND.findall(text):
        words = typed.split()
        if not words or not re.fullmatch(r"[a-z]+", words[0].strip(".,:")):
            continue
        name = words[0].strip(".,:")
        if name not in COMMANDS:
            found.append(f"no command: edgetrust {typed}")
            continue
        at = command(name)
        for word in words[1:]:
            children = getattr(at, "commands", None)
            if children is None or not re.fullmatch(r"[a-z0-9]+[.,:]?", word):
                break
            if word.strip(".,:") not in children:
                found.append(f"no command: edgetrust {typed}")
                break
            at = children[word.strip(".,:")]
        known = {option for param in getattr(at, "params", ()) for option in (*param.opts, *param.secondary_opts)}
        if not getattr(at, "commands", None):
            found += [f"no option {one}: edgetrust {typed}" for one in _OPTION.findall(typed) if one not in known]
    return found


@pytest.mark.parametrize("reason", list(Reason))
def test_an_explanation_names_commands_that_exist(reason: Reason) -> None:
    explanation = EXPLANATIONS[reason]
    assert faults(explanation.confirm) == []
    assert [fault for sentence in re.split(r"[.,](?:\s|$)", explanation.fix) for fault in faults(sentence)] == []


@pytest.mark.parametrize(
    "page", [page for page in pages() if page.name not in GENERATED], ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_page_names_commands_that_exist(page: Path) -> None:
    text = page.read_text()
    consoles = [block.text.replace("\\\n", " ") for block in blocks(text) if block.language == "console"]
    typed = [
        line[2:].replace("> ", "") for console in consoles for line in console.splitlines() if line.startswith("$ ")
    ]
    spans = re.findall(r"`(edgetrust [^`\n]+)`", text)
    assert [fault for one in (*typed, *spans) for fault in faults(one.replace("...", ""))] == []


def test_the_readme_names_every_command() -> None:
    named = set(re.findall(r"`edgetrust ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named == set(COMMANDS)
