"""The documentation as data: pages, headings, links, fenced blocks and the markers that say which of them run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(```+)(\w*)\s*$")
_MARKER = re.compile(r"^<!-- (run|file):?\s*(.*?)\s*-->$")
_SETTING = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `marker` is "run", "file" or "" and stood in the comment right before it."""

    language: str
    text: str
    line: int
    marker: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def pages() -> list[Path]:
    """Every Markdown page that readers meet."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    marker, settings = "", {}
    lines = enumerate(text.splitlines(), start=1)
    for number, line in lines:
        if found := _MARKER.match(line):
            marker, settings = found[1], _settings(found[1], found[2])
        elif fence := _FENCE.match(line):
            content = []
            for _, inner in lines:
                if inner.strip() == fence[1]:
                    break
                content.append(inner)
            yield Block(fence[2], "\n".join(content), number, marker, settings)
            marker, settings = "", {}
        elif line.strip():
            marker, settings = "", {}


def _settings(marker: str, text: str) -> dict[str, str]:
    return {"name": text} if marker == "file" else dict(_SETTING.findall(text))


def prose(text: str) -> str:
    """The page without fenced blocks, code spans, comments and link targets: what a style rule may judge."""
    text = re.sub(r"^(```+)\w*$.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def links(text: str) -> list[str]:
    """The targets of all inline links outside fenced blocks."""
    text = re.sub(r"^(```+)\w*$.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(text: str) -> set[str]:
    """The anchors that headings make, by the rule of the common forges."""
    text = re.sub(r"^(```+)\w*$.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number, anchor = 0, slug
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
    return found
