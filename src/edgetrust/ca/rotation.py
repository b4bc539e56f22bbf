"""Putting a new CA in the place of an old one without an outage: a state machine whose steps want evidence.

    prepared      the new keys and certificates exist; nobody sees them
    distributed   cacerts and trust bundles hold old and new, cross-signed; still the old CA issues
    active        the new CA issues, also for who asks under the old label; the old one could still
    tainted       the old CA does not issue any more; it is still trusted
    retired       the old CA is gone from cacerts and trust bundles

Rules. A step is taken only when its evidence is in, or with the word of an operator, which is recorded: to `active`,
everybody who has a certificate below the old root has fetched the new one; to `tainted`, every new issuing CA has
issued; to `retired`, nobody uses a certificate of the old CA. Every step but the first can be undone, and undoing the
first removes what was prepared from sight. A rotation of a root takes the CAs below it along, each to a successor below
the new root. Whoever rotates a root needs its key, once, to cross-sign: the old root certifies the new key for clients
that only know the old one, the new root certifies the old key for those that only know the new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection

from edgetrust.ca.authority import (
    ACTIVE,
    DISTRIBUTED,
    OWN_LISTENER,
    PREPARED,
    RETIRED,
    TAINTED,
    Authority,
    CertificateAuthority,
)
from edgetrust.ca.ceremony import OPERATOR, NewAuthority, make_authority
from edgetrust.errors import RefusedError, UsageError
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import INTERMEDIATE, PROFILES
from edgetrust.store import chained
from edgetrust.store.authorities import change_authority, fetchers
from edgetrust.store.issuance import CROSS, IssuedRow, add_issued, find_issued, serial_text, thumbprint_of
from edgetrust.store.rotations import RotationRow, put_rotation, read_rotations, remove_rotation

_GENERATION: Final = re.compile(r"(.*) G(\d+)")


class Stage(StrEnum):
    """How far a rotation is."""

    PREPARED = "prepared"
    DISTRIBUTED = "distributed"
    ACTIVE = "active"
    TAINTED = "tainted"
    RETIRED = "retired"


ORDER: Final = tuple(Stage)
# What the old and the new CA are in each stage.
STATES: Final = {
    Stage.PREPARED: (ACTIVE, PREPARED),
    Stage.DISTRIBUTED: (ACTIVE, DISTRIBUTED),
    Stage.ACTIVE: (ACTIVE, ACTIVE),
    Stage.TAINTED: (TAINTED, ACTIVE),
    Stage.RETIRED: (RETIRED, ACTIVE),
}


@dataclass(frozen=True, slots=True)
class Lack:
    """A piece of evidence that is not in yet: who, and what about them."""

    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation: pairs of old and new CAs, those above first."""

    pairs: tuple[tuple[str, str], ...]
    stage: Stage
    changed_at: datetime

    @property
    def old(self) -> str:
        return self.pairs[0][0]


@dataclass(frozen=True, slots=True)
class Step:
    """What going on (or back) would do, and what is missing for it."""

    rotation: Rotation
    to: Stage | None
    lacks: tuple[Lack, ...]


async def rotations(authority: CertificateAuthority) -> tuple[Rotation, ...]:
    """All, the newest last."""
    rows = await authority.database.read(read_rotations)
    groups: dict[str, list[RotationRow]] = {}
    for row in rows:
        groups.setdefault(row.head, []).append(row)
    return tuple(
        Rotation(tuple((row.old, row.new) for row in group), Stage(group[0].stage), group[0].changed_at)
        for group in groups.values()
    )


async def named(authority: CertificateAuthority, old: str) -> Rotation:
    """The rotation of a CA. UsageError (`rotation-unknown`)."""
    found = [one for one in await rotations(authority) if one.old == old]
    if not found:
        raise UsageError(
            f"{old!r} is not being rotated", reason="rotation-unknown", fix=f"edgetrust ca rotate start {old}"
        )
    return found[-1]


async def start(authority: CertificateAuthority, old: str) -> Rotation:
    """Make the successors of a CA and, for a root, of the CAs below it. Raises UsageError, ConfigError."""
    first = authority.named(old)
    if any(one.old == old for one in await rotations(authority)) or first.row.state != ACTIVE:
        raise UsageError(
            f"{old!r} is {first.row.state} or is being rotated already", reason="rotation-exists",
            fix="edgetrust ca rotate show",
        )  # fmt: skip
    moving = [first, *_below(authority, old)]
    without = [one.name for one in moving if one.issuer is None]
    if without:
        raise UsageError(
            f"the key of {', '.join(without)} is not here",
            reason="authority-key-missing",
            fix="bring the key back for the moment",
        )
    made: dict[str, str] = {}
    for one in moving:
        parent = one.row.parent
        made[one.name] = await make_authority(authority, _successor(authority, one, made.get(parent or "", parent)))
    now = authority.clock.now()
    rotation = Rotation(tuple(made.items()), Stage.PREPARED, now)

    def work(connection: Connection) -> None:
        if first.row.parent is None:
            _cross_sign(connection, authority, old, made[old], now)
        _record(connection, rotation, "prepared", now)

    await authority.database.write(work)
    await authority.refresh()
    return rotation


def _below(authority: CertificateAuthority, name: str) -> list[Authority]:
    """The active CAs below one that are ours, parents before children."""
    found = [one for one in authority.authorities.values() if one.row.parent == name and one.row.state == ACTIVE]
    return [deeper for one in found for deeper in (one, *_below(authority, one.name))]


def _successor(authority: CertificateAuthority, old: Authority, parent: str | None) -> NewAuthority:
    names = old.row.certificate.subject
    common_name = str(names.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    organizations = [str(one.value) for one in names.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    match = _GENERATION.fullmatch(common_name)
    base, generation = (match[1], int(match[2]) + 1) if match else (common_name, 2)
    number = 2
    plain = re.sub(r"-\d+$", "", old.name) if match else old.name
    while f"{plain}-{number}" in authority.authorities:
        number += 1
    profile = PROFILES[old.row.kind]
    if not profile.self_signed:
        basic = old.row.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        profile = profile.with_path_length(basic.path_length)
    return NewAuthority(
        f"{plain}-{number}",
        Names(f"{base} G{generation}", organization=organizations[0] if organizations else None),
        profile,
        parent,
        old.row.profiles,
        state=PREPARED,
    )


def _cross_sign(connection: Connection, authority: CertificateAuthority, old: str, new: str, now: datetime) -> None:
    profile = replace(INTERMEDIATE.with_path_length(None), name=CROSS)
    for signer, holder in ((old, new), (new, old)):
        issuer, subject = authority.named(signer).issuer, authority.named(holder).row.certificate
        assert issuer is not None
        organizations = [str(one.value) for one in subject.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        common_name = str(subject.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        names = Names(common_name, organization=organizations[0] if organizations else None)
        key = authority.named(holder).issuer
        assert key is not None
        chain = issuer.issue(key.key.public_key(), profile, names, now)
        serial = serial_text(chain.end_entity.serial_number)
        add_issued(connection, IssuedRow(signer, serial, CROSS, f"<{holder}>", chain.end_entity, now, CROSS, OPERATOR))
        detail = json.dumps({"authority": signer, "serial": serial, "profile": CROSS})
        chained.append(connection, chained.Entry(now, "issued", OPERATOR, "", f"<{holder}>", CROSS, detail))


# Steps ----------------------------------------------------------------------------------------------------------------


async def preview(authority: CertificateAuthority, rotation: Rotation, *, back: bool = False) -> Step:
    """What the next step (or the step back) is, and which evidence it still lacks."""
    place = ORDER.index(rotation.stage) + (-1 if back else 1)
    to = ORDER[place] if 0 <= place < len(ORDER) else None
    lacks = () if back or to is None else await _lacks(authority, rotation, to)
    return Step(rotation, to, lacks)


async def take(authority: CertificateAuthority, step: Step, *, back: bool = False, despite: bool = False) -> Stage:
    """Take a step. RefusedError (`rotation-evidence`) when evidence is missing, unless `despite`; UsageError
    (`rotation-over`) when there is no such step.
    """
    rotation = step.rotation
    if step.to is None and not back:
        raise UsageError(f"the rotation of {rotation.old!r} is over", reason="rotation-over")
    if step.lacks and not despite:
        shown = "; ".join(f"{one.who}: {one.what}" for one in step.lacks[:5])
        more = f"; and {len(step.lacks) - 5} more" if len(step.lacks) > 5 else ""  # noqa: PLR2004
        raise RefusedError(
            f"{rotation.old!r} does not become {step.to} yet: {shown}{more}",
            reason="rotation-evidence",
            fix="wait until they have renewed, or say --despite-missing and lose them",
        )
    now = authority.clock.now()

    def work(connection: Connection) -> None:
        if step.to is None:
            _abandon(connection, rotation, now)
            return
        moved = Rotation(rotation.pairs, step.to, now)
        _apply(connection, authority, moved)
        despite_word = [f"{one.who}: {one.what}" for one in step.lacks]
        _record(connection, moved, "back" if back else "forward", now, despite_word)

    await authority.database.write(work)
    await authority.refresh()
    return step.to or Stage.PREPARED


def _apply(connection: Connection, authority: CertificateAuthority, rotation: Rotation) -> None:
    old_state, new_state = STATES[rotation.stage]
    taken_over = rotation.stage not in (Stage.PREPARED, Stage.DISTRIBUTED)
    for old, new in rotation.pairs:
        default = authority.named(old).row.default or authority.named(new).row.default
        change_authority(connection, old, state=old_state, default=default and not taken_over)
        change_authority(connection, new, state=new_state, default=default and taken_over)


def _abandon(connection: Connection, rotation: Rotation, now: datetime) -> None:
    for _, new in rotation.pairs:
        change_authority(connection, new, state=RETIRED)
    remove_rotation(connection, rotation.old)
    detail = json.dumps({"pairs": rotation.pairs, "to": "abandoned"})
    chained.append(connection, chained.Entry(now, "rotation", OPERATOR, "", f"<{rotation.old}>", "abandoned", detail))


def _record(connection: Connection, rotation: Rotation, how: str, now: datetime, despite: Sequence[str] = ()) -> None:
    for place, (old, new) in enumerate(rotation.pairs):
        put_rotation(connection, RotationRow(old, new, rotation.old, place, rotation.stage.value, now))
    detail = json.dumps({"pairs": rotation.pairs, "to": rotation.stage.value, "how": how, "despite": list(despite)})
    entry = chained.Entry(now, "rotation", OPERATOR, "", f"<{rotation.old}>", rotation.stage.value, detail)
    chained.append(connection, entry)


# Evidence -------------------------------------------------------------------------------------------------------------


async def _lacks(authority: CertificateAuthority, rotation: Rotation, to: Stage) -> tuple[Lack, ...]:
    now = authority.clock.now()

    def work(connection: Connection) -> tuple[Lack, ...]:
        match to:
            case Stage.ACTIVE:
                return _not_fetched(connection, authority, rotation, now)
            case Stage.TAINTED:
                return _not_issued(connection, authority, rotation)
            case Stage.RETIRED:
                return _still_used(connection, rotation, now)
            case _:
                return ()

    return await authority.database.read(work)


def _not_fetched(
    connection: Connection, authority: CertificateAuthority, rotation: Rotation, now: datetime
) -> tuple[Lack, ...]:
    """A new issuing CA below a root that everybody trusts needs no distribution."""
    old, new = rotation.pairs[0]
    if authority.named(old).row.parent is not None:
        return ()
    have = fetchers(connection, thumbprint_of(authority.named(new).row.certificate))
    return tuple(
        Lack(identity, "has not fetched the new root")
        for identity in _users(connection, rotation, now)
        if identity not in have
    )


def _not_issued(connection: Connection, authority: CertificateAuthority, rotation: Rotation) -> tuple[Lack, ...]:
    serving = [new for _, new in rotation.pairs if authority.named(new).row.default]
    serving = serving or [new for _, new in rotation.pairs if authority.named(new).row.profiles][:1]
    return tuple(
        Lack(f"<{new}>", "has not issued a certificate yet")
        for new in serving
        if not find_issued(connection, authority=new, limit=1)
    )


def _still_used(connection: Connection, rotation: Rotation, now: datetime) -> tuple[Lack, ...]:
    return tuple(Lack(identity, "uses a certificate of the old CA") for identity in _users(connection, rotation, now))


def _users(connection: Connection, rotation: Rotation, now: datetime) -> list[str]:
    """Identities whose newest valid certificate of a kind is of an old CA; CAs and listeners of ours do not count."""
    old = {one for one, _ in rotation.pairs}
    newest: dict[tuple[str, str], IssuedRow] = {}
    for row in find_issued(connection, revoked=False, alive_at=now):
        newest.setdefault((row.identity, row.profile), row)
    ours = {OWN_LISTENER, CROSS}
    using = (
        row.identity
        for row in newest.values()
        if row.authority in old and row.operation not in ours and not row.identity.startswith("<")
    )
    return sorted(dict.fromkeys(using))
