"""The device twin: what a change does to it, its versions and times, and its limits (hub specification 3.9, 5.3).

A twin has tags, which only services see, desired properties, which a service writes and the device reads, and reported
properties, the other way round.

Rules:
1. A patch is a JSON merge patch (RFC 7396): null deletes, objects merge, everything else (arrays too) replaces.
2. Every change of a section raises its `$version` by one, and every change of the twin its `version`; its `revision`,
   from which the etag is made, counts what services change. A patch without members changes nothing.
3. `$version` inside a patch is a condition: it must be the section's, else nothing changes. `$metadata` inside a patch
   is ignored, since clients send back what they read.
4. `$metadata` mirrors the section: when each member and everything around it was written last; for desired properties
   with the `$version` that did it.
5. What a device is told of a change of the desired properties is a merge patch that leads from the old ones to the new.
6. The limits of names, values, depth and size are those of the cloud service; what breaks one changes nothing.

Time is an argument. Nothing here knows a store or a connection, and nothing is changed in place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec

from edgetrust.errors import PeerError
from edgetrust.limits import (
    TWIN_DEPTH,
    TWIN_KEY_BYTES,
    TWIN_PROPERTIES_BYTES,
    TWIN_TAGS_BYTES,
    TWIN_VALUE_BYTES,
)

__all__ = [
    "DesiredChange",
    "Json",
    "Section",
    "Twin",
    "TwinDraft",
    "TwinError",
    "created_twin",
    "device_view",
    "difference",
    "draft_from",
    "merge",
    "parse_draft",
    "parse_patch",
    "patched",
    "replaced",
    "reported",
    "section_view",
    "size_of",
    "stacked",
]

Json = Mapping[str, Any]

_VERSION, _METADATA = "$version", "$metadata"
_UPDATED, _UPDATED_VERSION = "$lastUpdated", "$lastUpdatedVersion"
_NOTHING: Json = MappingProxyType({})
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_FORBIDDEN_IN_KEYS = re.compile("[\x00-\x20.$\x7f-\x9f]")
_NUMBER_BYTES, _LITERAL_BYTES = 8, 4
_INTEGER_MIN, _INTEGER_MAX = -(2**52), 2**52 - 1  # what every client's numbers hold exactly


class TwinError(PeerError):
    """A change that a twin does not take. `code` is the name for the error answer (hub specification 12.2)."""

    def __init__(self, message: str, *, reason: str, code: str = "ArgumentInvalid", status: int = 400, fix: str = ""):
        super().__init__(message, reason=reason, status=status, fix=fix)
        self.code = code


@dataclass(frozen=True, slots=True)
class Section:
    """Desired or reported properties: `values` have no `$version` and `$metadata`, which is in `metadata`."""

    values: Json
    metadata: Json
    version: int


@dataclass(frozen=True, slots=True)
class Twin:
    """A twin. `version` counts all changes, `revision` those by services."""

    tags: Json
    desired: Section
    reported: Section
    version: int = 1
    revision: int = 1


@dataclass(frozen=True, slots=True)
class TwinDraft:
    """What a service wishes. None: not said. In a patch they are merge patches, in a replacement the whole."""

    tags: Json | None = None
    desired: Json | None = None


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """What the device is told: `patch` leads from the desired properties it knew to those of `version`."""

    patch: Json
    version: int

    def body(self) -> bytes:
        """The JSON that goes over the wire."""
        return msgspec.json.encode({**self.patch, _VERSION: self.version})


# Changes ------------------------------------------------------------------------------------------------------------


def created_twin(at: datetime, draft: TwinDraft | None = None) -> Twin:
    """The twin of a new identity: versions 1, whatever it starts with. Raises TwinError."""
    tags, desired = _whole(draft or TwinDraft())
    stamp = _stamp(at, 1)
    return Twin(tags, Section(desired, _touched(stamp, desired, stamp), 1), Section({}, _stamp(at), 1))


def patched(twin: Twin, draft: TwinDraft, at: datetime) -> tuple[Twin, DesiredChange | None]:
    """The twin with the service's patches applied, and what its device is told. Raises TwinError."""
    after, change = twin, None
    if draft.tags:
        after = replace(after, tags=_merged("tags", twin.tags, _clean(draft.tags), TWIN_TAGS_BYTES))
    if draft.desired:
        _check_version("desired", draft.desired, twin.desired.version)
        patch = _clean(draft.desired)
        if patch:
            section = _patched(twin.desired, patch, at, "desired properties", versioned=True)
            after = replace(after, desired=section)
            change = DesiredChange(patch, section.version)
    return _counted(twin, after), change


def replaced(twin: Twin, draft: TwinDraft, at: datetime) -> tuple[Twin, DesiredChange | None]:
    """The twin with the service's tags and desired properties instead of its own; what is not said is emptied.

    Raises TwinError.
    """
    _check_version("desired", draft.desired or {}, twin.desired.version)
    tags, desired = _whole(draft)
    version = twin.desired.version + 1
    stamp = _stamp(at, version)
    section = Section(desired, _touched(stamp, desired, stamp), version)
    change = DesiredChange(difference(twin.desired.values, desired), version)
    return _counted(twin, replace(twin, tags=tags, desired=section)), change


def reported(twin: Twin, patch: Json, at: datetime) -> Twin:
    """The twin with the device's patch of its reported properties applied. Raises TwinError."""
    _check_version("reported", patch, twin.reported.version)
    cleaned = _clean(patch)
    if not cleaned:
        return twin
    section = _patched(twin.reported, cleaned, at, "reported properties", versioned=False)
    return replace(twin, reported=section, version=twin.version + 1)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: `target` with `patch` applied, as a new value."""
    if not isinstance(patch, Mapping):
        return patch
    merged: dict[str, Any] = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def stacked(first: Json, then: Json) -> dict[str, Any] | None:
    """The one merge patch that does what `first` and then `then` do. None when there is none: a merge patch cannot
    say "an object instead of whatever was there", which is what deleting or overwriting a member and then patching
    inside it comes to.
    """
    both: dict[str, Any] = dict(first)
    for name, value in then.items():
        before = both.get(name)
        if not isinstance(value, Mapping) or name not in both:
            both[name] = value
            continue
        inner = stacked(before, value) if isinstance(before, Mapping) else None
        if inner is None:
            return None
        both[name] = inner
    return both


def difference(old: Json, new: Json) -> dict[str, Any]:
    """The merge patch that leads from `old` to `new`, neither of which holds null members."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = difference(before, value)
            if inner:
                patch[name] = inner
        elif name not in old or not _same(before, value):
            patch[name] = value
    return patch


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: to Python, true is 1."""
    return msgspec.json.encode(one) == msgspec.json.encode(other)


def _whole(draft: TwinDraft) -> tuple[Json, Json]:
    """Tags and desired properties that start from nothing."""
    tags = _merged("tags", _NOTHING, _clean(draft.tags or {}), TWIN_TAGS_BYTES)
    return tags, _merged("desired properties", _NOTHING, _clean(draft.desired or {}), TWIN_PROPERTIES_BYTES)


def _patched(section: Section, patch: Json, at: datetime, what: str, *, versioned: bool) -> Section:
    values = _merged(what, section.values, patch, TWIN_PROPERTIES_BYTES)
    version = section.version + 1
    stamp = _stamp(at, version if versioned else None)
    return Section(values, _touched(section.metadata, patch, stamp), version)


def _merged(what: str, values: Json, patch: Json, most: int) -> Json:
    """`values` with `patch` applied, if both are within the limits."""
    _check_form(what, patch)
    merged: Json = merge(values, patch)
    size = size_of(merged)
    if size > most:
        raise TwinError(
            f"the {what} would have {size} bytes, at most {most} are kept",
            reason="twin-too-large",
            fix="delete members that nobody needs, with null",
        )
    return merged


def _counted(before: Twin, after: Twin) -> Twin:
    if after is before:
        return before
    return replace(after, version=before.version + 1, revision=before.revision + 1)


def _clean(patch: Json) -> Json:
    """Without what a client only sends back."""
    return {name: value for name, value in patch.items() if name not in (_VERSION, _METADATA)}


def _check_version(section: str, patch: Json, version: int) -> None:
    wanted = patch.get(_VERSION)
    if wanted is None:
        return
    if type(wanted) is not int:
        raise TwinError(f"{_VERSION} of {section} properties is no whole number", reason="twin-malformed")
    if wanted != version:
        raise TwinError(
            f"the {section} properties have version {version}, and the change is for {wanted}",
            reason="twin-version-conflict",
            code="PreconditionFailed",
            status=412,
            fix="read the twin again, then change it",
        )


# Metadata -----------------------------------------------------------------------------------------------------------


def _stamp(at: datetime, version: int | None = None) -> Json:
    moment = at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    return {_UPDATED: moment} if version is None else {_UPDATED: moment, _UPDATED_VERSION: version}


def _touched(metadata: Json, patch: Json, stamp: Json) -> dict[str, Any]:
    """The metadata of an object after `patch`: what it names, and the object itself, was written at `stamp`."""
    members: dict[str, Any] = {name: value for name, value in metadata.items() if not name.startswith("$")}
    for name, value in patch.items():
        if value is None:
            members.pop(name, None)
        elif isinstance(value, Mapping):
            members[name] = _touched(members.get(name, _NOTHING), value, stamp)
        else:
            members[name] = dict(stamp)
    return {**stamp, **members}


# Limits -------------------------------------------------------------------------------------------------------------


def _check_form(what: str, values: Any, depth: int = 0) -> None:
    """Names, values and depth of an object or array that is `depth` levels below the section."""
    if depth > TWIN_DEPTH:
        raise TwinError(f"the {what} are nested more than {TWIN_DEPTH} levels deep", reason="twin-too-deep")
    if isinstance(values, Mapping):
        for name in values:
            _check_name(what, name)
        values = values.values()
    for value in values:
        if isinstance(value, Mapping | list):
            _check_form(what, value, depth + 1)
        else:
            _check_value(what, value)


def _check_name(what: str, name: str) -> None:
    if not name or _FORBIDDEN_IN_KEYS.search(name) or len(name.encode()) > TWIN_KEY_BYTES:
        raise TwinError(
            f"{name[:80]!r} in the {what} cannot name a member",
            reason="twin-name",
            fix=f"use 1 to {TWIN_KEY_BYTES} bytes without control characters, '.', '$' and space",
        )


def _check_value(what: str, value: Any) -> None:
    if isinstance(value, str):
        if len(value.encode()) > TWIN_VALUE_BYTES or "\0" in value:
            raise TwinError(
                f"a text in the {what} has more than {TWIN_VALUE_BYTES} bytes, or holds U+0000", reason="twin-value"
            )
    elif isinstance(value, int) and not _INTEGER_MIN <= value <= _INTEGER_MAX:
        raise TwinError(f"a whole number in the {what} is beyond 52 bits", reason="twin-value")


def size_of(value: Any) -> int:
    """The bytes that count towards a limit: names and texts without control characters, 8 for a number, 4 for true,
    false, null and what is empty.
    """
    if isinstance(value, str):
        return len(_CONTROLS.sub("", value).encode())
    if isinstance(value, Mapping):
        return sum(size_of(name) + size_of(member) for name, member in value.items()) or _LITERAL_BYTES
    if isinstance(value, list):
        return sum(map(size_of, value)) or _LITERAL_BYTES
    return _LITERAL_BYTES if value is None or isinstance(value, bool) else _NUMBER_BYTES


# Bodies -------------------------------------------------------------------------------------------------------------


def parse_patch(data: bytes) -> Json:
    """A device's patch of its reported properties. Raises TwinError."""
    return _object(_decoded(data), "the patch")


def parse_draft(data: bytes) -> TwinDraft:
    """A service's patch or replacement: `tags` and `properties.desired`; everything else is ignored, null is the same
    as absent. Raises TwinError.
    """
    return draft_from(_object(_decoded(data), "the twin"))


def draft_from(body: Json) -> TwinDraft:
    """The same of a body that is decoded already."""
    properties = body.get("properties")
    desired = None if properties is None else _object(properties, "properties")
    return TwinDraft(_wish(body, "tags"), None if desired is None else _wish(desired, "desired"))


def _wish(body: Json, name: str) -> Json | None:
    value = body.get(name)
    return None if value is None else _object(value, name)


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise TwinError(f"no JSON: {problem}"[:200], reason="twin-malformed", code="IotHubFormatError") from None


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise TwinError(f"{what} must be a JSON object", reason="twin-malformed")
    return value


def device_view(twin: Twin) -> bytes:
    """The JSON that the device gets: both kinds of properties with their `$version`."""
    sections = {"desired": twin.desired, "reported": twin.reported}
    return msgspec.json.encode({name: {**one.values, _VERSION: one.version} for name, one in sections.items()})


def section_view(section: Section) -> dict[str, Any]:
    """What a service gets of a section."""
    return {**section.values, _METADATA: section.metadata, _VERSION: section.version}
