"""The page on configuration names every key of both files, no other, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from edgetrust.ca import settings as ca
from edgetrust.edge.configfile import ConfigFile
from edgetrust.hub import settings as hub
from edgetrust.provisioning import settings as dps
from support.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "config.md").read_text()
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \|", re.MULTILINE)


def documented(heading: str) -> dict[str, str]:
    """Keys in the tables below a heading, with their second column."""
    section = re.split(rf"^## {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    rows = ROW.findall(re.split(r"^## ", section, flags=re.MULTILINE)[0])
    assert len(rows) == len(dict(rows)), "a key stands twice"
    return dict(rows)


def keys(kind: type[msgspec.Struct], above: str = "") -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every key that holds a value, with its field; a table that may also be a value counts as a value."""
    for field in msgspec.structs.fields(kind):
        kinds = (field.type, *get_args(field.type))
        tables = [one for one in kinds if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        if tables and str not in kinds:
            yield from keys(tables[0], f"{above}{field.encode_name}.")
        else:
            yield above + field.encode_name, field


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def wrong_defaults(kind: type[msgspec.Struct], shown: dict[str, str]) -> list[str]:
    found = []
    for key, field in keys(kind):
        if key not in shown:
            continue
        default = default_of(field)
        if isinstance(default, bool):
            default = str(default).lower()
        if default and isinstance(default, tuple):
            default = ", ".join(default)
        if default is msgspec.NODEFAULT:
            expected = "required"
        elif default in (None, (), {}):
            continue  # what happens without the key is said in words
        else:
            expected = f"`{default}`"
        if shown[key] != expected:
            found.append(f"{key}: {shown[key]} instead of {expected}")
    return found


def test_every_key_of_hub_toml_is_documented() -> None:
    shown = documented("hub.toml")
    assert set(shown) == {key for key, _ in keys(hub._File)}
    assert wrong_defaults(hub._File, shown) == []


def test_every_key_of_ca_toml_is_documented() -> None:
    shown = documented("ca.toml")
    assert set(shown) == {key for key, _ in keys(ca.CaFile)}
    assert wrong_defaults(ca.CaFile, shown) == []


def test_every_key_of_dps_toml_is_documented() -> None:
    shown = documented("dps.toml")
    assert set(shown) == {key for key, _ in keys(dps._File)}
    assert wrong_defaults(dps._File, shown) == []


def test_every_key_of_config_toml_is_documented() -> None:
    shown = documented("config.toml")
    assert set(shown) == {key for key, _ in keys(ConfigFile)}


def test_defaults_of_the_keys_that_are_used() -> None:
    used = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1]
    assert wrong_defaults(ConfigFile, dict(ROW.findall(used))) == []
