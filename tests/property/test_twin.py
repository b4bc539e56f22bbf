"""Laws of twins: merge patches in any order, versions that only grow, metadata that mirrors, differences that lead."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edgetrust.errors import Error
from edgetrust.protocol.twin import (
    TwinDraft,
    TwinError,
    created_twin,
    merge,
    parse_draft,
    parse_patch,
    patched,
    replaced,
    reported,
    size_of,
    stacked,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)
NEW = created_twin(AT)
NAMES = st.sampled_from(["a", "b", "c", "d-1"])
LEAVES = st.one_of(st.booleans(), st.integers(-(2**52), 2**52 - 1), st.floats(allow_nan=False, allow_infinity=False),
                   st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8))  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
                      max_leaves=8)  # fmt: skip
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
PATCHES = st.dictionaries(NAMES, st.recursive(st.none() | LEAVES, lambda inner: st.dictionaries(NAMES, inner,
                          max_size=3), max_leaves=8), max_size=4)  # fmt: skip


def has_null(value: Any) -> bool:
    return isinstance(value, dict) and any(one is None or has_null(one) for one in value.values())


def same(one: Any, other: Any) -> bool:
    """Equal as JSON, whatever the order of members."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic")


def mirrors(metadata: Any, values: Any, at_most: int) -> bool:
    """Whether `metadata` has an entry for each member of `values` and no other, none written by a later version."""
    members = {name: one for name, one in metadata.items() if not name.startswith("$")}
    inner = values if isinstance(values, dict) else {}
    return (
        metadata["$lastUpdatedVersion"] <= at_most
        and members.keys() == inner.keys()
        and all(one["$lastUpdatedVersion"] <= metadata["$lastUpdatedVersion"] for one in members.values())
        and all(mirrors(members[name], inner[name], at_most) for name in inner)
    )


@given(st.lists(PATCHES, max_size=8))
def test_patches_leave_no_null_count_by_one_and_keep_metadata_in_step(patches: list[dict[str, Any]]) -> None:
    twin = NEW
    for patch in patches:
        after, told = patched(twin, TwinDraft(desired=patch), AT)
        assert after.desired.version == twin.desired.version + bool(patch)
        assert after.version == twin.version + bool(patch)
        assert (told is None) == (not patch)
        assert not has_null(after.desired.values)
        assert mirrors(after.desired.metadata, after.desired.values, after.desired.version)
        twin = after


@given(OBJECTS, st.lists(PATCHES, max_size=5))
def test_a_device_that_applies_what_it_is_told_has_what_the_hub_has(
    start: dict[str, Any], patches: list[dict[str, Any]]
) -> None:
    twin = created_twin(AT, TwinDraft(desired=start))
    device: Any = dict(start)
    for patch in patches:
        twin, told = patched(twin, TwinDraft(desired=patch), AT)
        if told is not None:
            device = merge(device, told.patch)
    assert same(device, twin.desired.values)


@given(OBJECTS, OBJECTS)
def test_what_is_told_of_a_replacement_leads_from_the_old_to_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = created_twin(AT, TwinDraft(desired=old))
    after, told = replaced(before, TwinDraft(desired=new), AT)
    assert told is not None
    assert same(merge(before.desired.values, told.patch), after.desired.values)
    assert same(after.desired.values, new)
    assert mirrors(after.desired.metadata, new, after.desired.version)


@given(OBJECTS, PATCHES)
def test_a_merge_patch_twice_is_the_same_as_once(target: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge(target, patch)
    assert same(merge(once, patch), once)


@given(OBJECTS, PATCHES, PATCHES)
def test_patches_of_different_members_can_come_in_any_order(
    target: dict[str, Any], one: dict[str, Any], two: dict[str, Any]
) -> None:
    other = {f"x{name}": value for name, value in two.items()}
    assert same(merge(merge(target, one), other), merge(merge(target, other), one))


@given(OBJECTS, PATCHES)
def test_nothing_is_changed_in_place(target: dict[str, Any], patch: dict[str, Any]) -> None:
    twin = created_twin(AT, TwinDraft(desired=target))
    seen = msgspec.json.encode(twin)
    patched(twin, TwinDraft(desired=patch), AT)
    replaced(twin, TwinDraft(desired=patch), AT)
    assert msgspec.json.encode(twin) == seen


@given(PATCHES, st.integers(-3, 5))
def test_a_conditional_patch_is_all_or_nothing(patch: dict[str, Any], version: int) -> None:
    try:
        after = reported(NEW, {**patch, "$version": version}, AT)
    except TwinError as problem:
        assert problem.reason == "twin-version-conflict"
        assert version != 1
    else:
        assert version == 1
        assert same(after.reported.values, merge({}, patch))


@given(OBJECTS, NAMES, VALUES)
def test_a_member_more_is_never_smaller(target: dict[str, Any], name: str, value: Any) -> None:
    target.pop(name, None)
    if target:
        assert size_of({**target, name: value}) > size_of(target)


@given(st.binary(max_size=64) | st.builds(msgspec.json.encode, VALUES))
def test_garbage_is_one_documented_error(data: bytes) -> None:
    for parse in (parse_draft, parse_patch):
        try:
            parse(data)
        except Error as problem:
            assert problem.reason == "twin-malformed"


@given(OBJECTS, PATCHES, PATCHES)
def test_stacked_patches_do_what_both_do(values: dict[str, Any], first: dict[str, Any], then: dict[str, Any]) -> None:
    """Or there is no such patch, and then because one member is overwritten and patched inside."""
    both = stacked(first, then)
    if both is None:
        assert any(isinstance(value, dict) for value in then.values())
    else:
        assert same(merge(values, both), merge(merge(values, first), then))
