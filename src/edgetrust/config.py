"""One TOML file in, frozen values out.

Rules: an unknown key is an error that names the nearest known one; a wrong type names the key and what was expected;
a missing or unreadable file says which user could not read it and the one command that mends it. Values are msgspec
Structs (frozen); this module does not know which settings exist.
"""

from __future__ import annotations

import difflib
import getpass
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgetrust.errors import ConfigError

T = TypeVar("T")


Values = dict[str, Any]


def load_toml(path: Path, kind: type[T], prepare: Callable[[Values], Values] | None = None) -> T:
    """Read the file at `path` as a `kind`; `prepare` may give what was read another shape first. Raises ConfigError."""
    return parse_toml(read_text(path), kind, str(path), prepare)


def parse_toml(text: str, kind: type[T], source: str, prepare: Callable[[Values], Values] | None = None) -> T:
    """Read `text` as a `kind`; `source` names it in errors. Raises ConfigError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{source}: not TOML: {problem}", reason="config-not-toml") from problem
    if prepare is not None:
        values = prepare(values)
    check_keys(values, kind, source)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"{source}: {problem}", reason="config-wrong-value") from problem


def read_text(path: Path) -> str:
    """The text of a configuration file. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as problem:
        raise ConfigError(f"{path} does not exist", reason="config-missing", fix=f"create {path}") from problem
    except PermissionError as problem:
        user = getpass.getuser()
        raise ConfigError(
            f"user {user} may not read {path}",
            reason="config-unreadable",
            fix=f"sudo chown {user} {path}" if os.geteuid() else f"chmod u+r {path}",
        ) from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}", reason="config-unreadable") from problem


def check_keys(values: Mapping[str, Any], kind: object, source: str, path: str = "") -> None:
    """Refuse keys that `kind` does not have, at any depth, naming the nearest one. Raises ConfigError."""
    table = _table_of(kind, values)
    if isinstance(table, dict):
        for key, value in values.items():
            if isinstance(value, Mapping):
                check_keys(value, table["*"], source, f"{path}{key}.")
        return
    if table is None:
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(table)}
    if table.__struct_config__.tag_field is not None:
        fields[table.__struct_config__.tag_field] = str
    for key, value in values.items():
        if key not in fields:
            raise unknown_key(f"{path}{key}", key, fields, source)
        if isinstance(value, Mapping):
            check_keys(value, fields[key], source, f"{path}{key}.")


def unknown_key(shown: str, key: str, known: typing.Iterable[str], source: str) -> ConfigError:
    """The error for a key that means nothing; names the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
    return ConfigError(f"{source}: unknown key {shown!r}", reason="config-unknown-key", fix=fix)


def _table_of(kind: object, values: Mapping[str, Any]) -> Any:
    """The Struct (or {"*": value type} for a mapping) that a table must fit; None when anything goes. Of several, the
    one whose tag stands in `values`.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        tables = [table for arg in typing.get_args(kind) if (table := _table_of(arg, values)) is not None]
        return tables[0] if len(tables) == 1 else _tagged(tables, values)
    if origin in (dict, Mapping):
        return {"*": typing.get_args(kind)[1]}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return None


def _tagged(tables: list[Any], values: Mapping[str, Any]) -> Any:
    for table in tables:
        config = getattr(table, "__struct_config__", None)
        if config is not None and config.tag is not None and values.get(config.tag_field) == config.tag:
            return table
    return None
