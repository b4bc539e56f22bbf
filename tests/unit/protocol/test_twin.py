"""The device twin: changes, versions, metadata, limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from edgetrust.limits import TWIN_DEPTH, TWIN_KEY_BYTES, TWIN_PROPERTIES_BYTES, TWIN_TAGS_BYTES, TWIN_VALUE_BYTES
from edgetrust.protocol.twin import (
    TwinDraft,
    TwinError,
    created_twin,
    device_view,
    parse_draft,
    parse_patch,
    patched,
    replaced,
    reported,
    section_view,
    size_of,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
LATER = AT + timedelta(hours=1)
STAMP, STAMP_LATER = "2026-01-02T03:04:05.678Z", "2026-01-02T04:04:05.678Z"
NEW = created_twin(AT)


def desired(**members: Any) -> TwinDraft:
    return TwinDraft(desired=members)


def refused(call: Any, *arguments: Any) -> TwinError:
    with pytest.raises(TwinError) as caught:
        call(*arguments)
    return caught.value


def test_a_new_twin_is_empty_at_version_1() -> None:
    assert (NEW.tags, NEW.desired.values, NEW.reported.values) == ({}, {}, {})
    assert (NEW.version, NEW.revision, NEW.desired.version, NEW.reported.version) == (1, 1, 1, 1)
    assert section_view(NEW.desired) == {
        "$metadata": {"$lastUpdated": STAMP, "$lastUpdatedVersion": 1},
        "$version": 1,
    }
    assert section_view(NEW.reported) == {"$metadata": {"$lastUpdated": STAMP}, "$version": 1}


def test_an_initial_twin_has_version_1_and_no_nulls() -> None:
    twin = created_twin(AT, TwinDraft({"site": "north", "no": None}, {"a": {"b": 1, "c": None}}))
    assert (twin.tags, twin.desired.values) == ({"site": "north"}, {"a": {"b": 1}})
    assert (twin.version, twin.desired.version) == (1, 1)
    assert twin.desired.metadata["a"]["b"] == {"$lastUpdated": STAMP, "$lastUpdatedVersion": 1}


def test_a_patch_of_desired_properties_merges_counts_and_is_told() -> None:
    first, _ = patched(NEW, desired(keep=1, drop=2, inner={"x": 1, "y": 2}), AT)
    second, told = patched(first, desired(drop=None, inner={"y": 3}), LATER)
    assert second.desired.values == {"keep": 1, "inner": {"x": 1, "y": 3}}
    assert (second.desired.version, second.version, second.revision, second.reported.version) == (3, 3, 3, 1)
    assert told is not None
    assert msgspec.json.decode(told.body()) == {"drop": None, "inner": {"y": 3}, "$version": 3}


def test_metadata_says_when_each_member_and_what_is_around_it_was_written() -> None:
    first, _ = patched(NEW, desired(keep=1, drop=2, inner={"x": 1, "y": [1, 2]}), AT)
    second, _ = patched(first, desired(drop=None, inner={"y": 3}), LATER)
    old = {"$lastUpdated": STAMP, "$lastUpdatedVersion": 2}
    new = {"$lastUpdated": STAMP_LATER, "$lastUpdatedVersion": 3}
    assert second.desired.metadata == {**new, "keep": old, "inner": {**new, "x": old, "y": new}}


def test_a_member_that_was_an_object_and_is_a_number_has_the_metadata_of_a_number() -> None:
    first, _ = patched(NEW, desired(a={"b": 1}), AT)
    second, _ = patched(first, desired(a=1), LATER)
    assert second.desired.metadata["a"] == {"$lastUpdated": STAMP_LATER, "$lastUpdatedVersion": 3}


def test_reported_properties_count_by_themselves_and_leave_the_etag() -> None:
    twin = reported(NEW, {"temperature": 21.5}, LATER)
    assert (twin.reported.version, twin.desired.version, twin.version, twin.revision) == (2, 1, 2, 1)
    assert twin.reported.metadata["temperature"] == {"$lastUpdated": STAMP_LATER}


def test_a_patch_without_members_changes_nothing() -> None:
    assert reported(NEW, {}, LATER) is NEW
    assert reported(NEW, {"$version": 1, "$metadata": {"x": 1}}, LATER) is NEW
    assert patched(NEW, TwinDraft({}, {}), LATER) == (NEW, None)
    assert patched(NEW, TwinDraft(None, {"$version": 1}), LATER) == (NEW, None)


def test_tags_alone_tell_the_device_nothing() -> None:
    twin, told = patched(NEW, TwinDraft(tags={"site": "north"}), LATER)
    assert told is None
    assert (twin.tags, twin.desired.version, twin.revision) == ({"site": "north"}, 1, 2)


@pytest.mark.parametrize("stale", [0, 2, 99])
def test_a_version_in_a_patch_that_is_not_the_sections_is_a_conflict(stale: int) -> None:
    for problem in (
        refused(reported, NEW, {"a": 1, "$version": stale}, AT),
        refused(patched, NEW, TwinDraft(desired={"a": 1, "$version": stale}), AT),
        refused(replaced, NEW, TwinDraft(desired={"a": 1, "$version": stale}), AT),
    ):
        assert (problem.reason, problem.code, problem.status) == ("twin-version-conflict", "PreconditionFailed", 412)


def test_a_version_in_a_patch_that_fits_is_no_member() -> None:
    assert reported(NEW, {"a": 1, "$version": 1}, AT).reported.values == {"a": 1}
    assert reported(NEW, {"a": 1, "$version": None}, AT).reported.values == {"a": 1}


@pytest.mark.parametrize("version", ["1", 1.0, True])
def test_a_version_that_is_no_whole_number_is_refused(version: Any) -> None:
    assert refused(reported, NEW, {"a": 1, "$version": version}, AT).reason == "twin-malformed"


def test_a_replacement_empties_what_it_does_not_say_and_tells_the_difference() -> None:
    first, _ = patched(NEW, TwinDraft({"site": "north"}, {"keep": 1, "drop": 2, "inner": {"x": 1, "y": True}}), AT)
    second, told = replaced(first, desired(keep=1, inner={"y": 1}), LATER)
    assert (second.tags, second.desired.values) == ({}, {"keep": 1, "inner": {"y": 1}})
    assert told is not None
    assert told.patch == {"drop": None, "inner": {"x": None, "y": 1}}
    assert (told.version, second.desired.version, second.version) == (3, 3, 3)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"leaf": 1}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_ten_levels_are_taken_and_eleven_are_not() -> None:
    assert reported(NEW, nested(TWIN_DEPTH), AT).reported.version == 2
    assert refused(reported, NEW, nested(TWIN_DEPTH + 1), AT).reason == "twin-too-deep"
    lists: list[Any] = [1]
    for _ in range(TWIN_DEPTH):
        lists = [lists]
    assert refused(reported, NEW, {"a": lists}, AT).reason == "twin-too-deep"


@pytest.mark.parametrize("name", ["", "a.b", "a$", "$x", "a b", "a\x00", "a\x85", "k" * (TWIN_KEY_BYTES + 1)])
def test_names_that_cannot_be_used_are_refused_at_every_depth(name: str) -> None:
    for patch in ({name: 1}, {"a": {name: 1}}, {"a": [{name: 1}]}, {name: None}):
        assert refused(reported, NEW, patch, AT).reason == "twin-name"


@pytest.mark.parametrize("value", ["x" * (TWIN_VALUE_BYTES + 1), "\0", 2**52, -(2**52) - 1])
def test_values_that_cannot_be_kept_are_refused(value: Any) -> None:
    for patch in ({"a": value}, {"a": [value]}, {"a": {"b": value}}):
        assert refused(reported, NEW, patch, AT).reason == "twin-value"


@pytest.mark.parametrize("value", ["x" * TWIN_VALUE_BYTES, 2**52 - 1, -(2**52), 1.5, True, [], {}, [None, {"a": []}]])
def test_values_at_the_limit_are_kept(value: Any) -> None:
    assert reported(NEW, {"a": value}, AT).reported.values == {"a": value}


def fill(size: int) -> dict[str, Any]:
    """Members of `size` bytes in all."""
    whole, rest = divmod(size, 1024)
    members = {f"k{number:03d}": "x" * 1020 for number in range(whole)}
    return {**members, "r": "x" * (rest - 1)} if rest else members


@pytest.mark.parametrize(
    ("most", "change"),
    [
        (TWIN_TAGS_BYTES, lambda members: patched(NEW, TwinDraft(tags=members), AT)),
        (TWIN_TAGS_BYTES, lambda members: created_twin(AT, TwinDraft(tags=members))),
        (TWIN_PROPERTIES_BYTES, lambda members: patched(NEW, TwinDraft(desired=members), AT)),
        (TWIN_PROPERTIES_BYTES, lambda members: replaced(NEW, TwinDraft(desired=members), AT)),
        (TWIN_PROPERTIES_BYTES, lambda members: reported(NEW, members, AT)),
    ],
)
def test_the_size_of_a_section_is_limited_to_the_byte(most: int, change: Any) -> None:
    assert size_of(fill(most)) == most
    change(fill(most))
    assert refused(change, fill(most + 2)).reason == "twin-too-large"


def test_a_patch_that_only_deletes_is_taken_from_a_full_section() -> None:
    full = reported(NEW, fill(TWIN_PROPERTIES_BYTES), AT)
    assert "k000" not in reported(full, {"k000": None}, AT).reported.values


def test_sizes_count_names_texts_numbers_and_literals() -> None:
    assert size_of({"é": "a\x01b", "n": 1, "f": 1.5, "t": True, "z": [None, {}], "o": {"i": "x"}}) == (
        2 + 2 + 1 + 8 + 1 + 8 + 1 + 4 + 1 + 8 + 1 + 2
    )


def test_what_a_device_gets_has_versions_and_no_metadata() -> None:
    twin, _ = patched(reported(NEW, {"r": 1}, AT), TwinDraft({"t": 1}, {"d": 2}), AT)
    assert msgspec.json.decode(device_view(twin)) == {
        "desired": {"d": 2, "$version": 2},
        "reported": {"r": 1, "$version": 2},
    }


def test_a_service_says_tags_and_desired_properties_and_sends_back_what_it_read() -> None:
    sent = {"deviceId": "d", "tags": {"a": 1}, "properties": {"desired": {"b": 2}, "reported": {"c": 3}}}
    assert parse_draft(msgspec.json.encode(sent)) == TwinDraft({"a": 1}, {"b": 2})
    assert parse_draft(b'{"tags":null,"properties":{"desired":null}}') == TwinDraft()
    assert parse_draft(b"{}") == TwinDraft()


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"tags":[]}', b'{"properties":1}', b'{"properties":{"desired":"x"}}'])
def test_other_json_is_no_twin(body: bytes) -> None:
    problem = refused(parse_draft, body)
    assert (problem.reason, problem.code) == ("twin-malformed", "ArgumentInvalid")


@pytest.mark.parametrize("body", [b"", b" ", b"{", b"\xff", b'{"a":1e400}', b"[" * 100_000])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    for parse in (parse_draft, parse_patch):
        problem = refused(parse, body)
        assert (problem.reason, problem.code, problem.status) == ("twin-malformed", "IotHubFormatError", 400)


def test_a_patch_is_an_object() -> None:
    assert parse_patch(b'{"a":null}') == {"a": None}
    assert refused(parse_patch, b"null").reason == "twin-malformed"
