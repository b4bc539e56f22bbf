"""Decision records: numbered without gaps, listed, and each with all its parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.pages import ROOT, links

FOLDER = ROOT / "docs" / "adr"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))


def test_numbers_are_unique_and_gapless() -> None:
    numbers = [int(record.name[:4]) for record in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))


def test_the_list_names_them_all_in_order() -> None:
    listed = [link for link in links((FOLDER / "README.md").read_text()) if re.match(r"\d{4}-", link)]
    assert listed == [record.name for record in RECORDS]


@pytest.mark.parametrize("record", [*RECORDS, FOLDER / "template.md"], ids=lambda record: record.name)
def test_a_record_has_all_its_parts(record: Path) -> None:
    text = record.read_text()
    assert re.match(r"# \d{4}\. \S|# NNNN\. ", text)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Options", "Decision", "What it costs"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_record_carries_its_own_number(record: Path) -> None:
    assert record.read_text().startswith(f"# {record.name[:4]}. ")
