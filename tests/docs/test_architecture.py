"""The architecture page names modules that are there, and every one of the large packages."""

from __future__ import annotations

import re

import pytest

from support.pages import ROOT

PAGE = (ROOT / "docs/develop/ARCHITECTURE.md").read_text()
SOURCE = ROOT / "src/edgetrust"
ROWS = re.findall(r"^\| \[(\w+)\]\([^)]*\) \| (`.*) \|$", PAGE, re.MULTILINE)
TABLES = re.findall(r"<!-- modules: (\w+) -->\n((?:\|.*\n)+)", PAGE)


def there(package: str) -> set[str]:
    return {path.stem for path in (SOURCE / package).glob("*.py")} - {"__init__"}


@pytest.mark.parametrize(("package", "row"), ROWS, ids=lambda value: value if value.isidentifier() else "")
def test_who_begins_there_finds_it(package: str, row: str) -> None:
    named = re.findall(r"`([\w/]+)`", row)
    missing = [one for one in named if not any((SOURCE / package / f"{one}{end}").exists() for end in (".py", ""))]
    assert (missing, len(named) > 1) == ([], True)


@pytest.mark.parametrize(("package", "table"), TABLES, ids=lambda value: value if value.isidentifier() else "")
def test_every_module_of_a_large_package_has_one_place(package: str, table: str) -> None:
    named = re.findall(r"`([\w/]+)`", table)
    assert sorted(named) == sorted(there(package))


def test_every_package_is_on_the_page() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages == {package for package, _ in ROWS} | {package for package, _ in TABLES}
