"""CAs are renewed before they end, while the authority serves, and when somebody says so.

Rules. What signs a CA's next certificate is its parent, whose key must be here. `same-key` replaces the certificate:
name, key and everything issued below stay good, with the new end. `new-key` puts a successor in its place as
`edgetrust ca rotate` does, and takes each further step when its evidence is in, never without. Where the parent's key
is elsewhere, a CSR lies ready as `renewals/NAME.csr.pem`, and `to_do` says word for word what is to be done with it. A
root is never renewed by itself: everybody has to learn about it, so that it is rotated by a person.

Of a parent and its children the parent is renewed first. Two processes that do this at once leave one certificate: the
second finds another than the one that it wanted to replace, and stores nothing.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from sqlalchemy import Connection

from edgetrust.ca import rotation
from edgetrust.ca.authority import ACTIVE, Authority, CertificateAuthority
from edgetrust.ca.ceremony import CA_EXTENSIONS, OPERATOR, names_of
from edgetrust.ca.rotation import Stage
from edgetrust.errors import ConfigError, UsageError
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.csr import request_for
from edgetrust.pki.facts import read_once
from edgetrust.pki.profiles import PROFILES, ROOT
from edgetrust.pki.renewal import AutoRenew, is_due, renew_at
from edgetrust.pki.softkeys import write_public
from edgetrust.store import chained
from edgetrust.store.authorities import replace_certificate
from edgetrust.store.issuance import IssuedRow, add_issued, issued_by_serial, serial_text

SAME_KEY, NEW_KEY, NEVER = "same-key", "new-key", "never"


def policy_of(authority: CertificateAuthority) -> AutoRenew:
    """When CAs are due."""
    return AutoRenew(threshold=authority.settings.renew_authorities_at)


def due(authority: CertificateAuthority, now: datetime) -> tuple[Authority, ...]:
    """Active CAs that are past their threshold, parents before children."""
    policy = policy_of(authority)
    found = [one for one in authority.authorities.values() if one.row.state == ACTIVE]
    found = [one for one in found if is_due(one.row.certificate, policy, now)]
    return tuple(sorted(found, key=lambda one: len(one.chain.certificates)))


def request_file(authority: CertificateAuthority, name: str) -> Path:
    """Where the CSR of a CA lies whose parent's key is elsewhere."""
    return authority.settings.data / "renewals" / f"{name}.csr.pem"


def obstacle(authority: CertificateAuthority, one: Authority) -> str | None:
    """What keeps a CA from being renewed here, as an instruction; None if nothing does."""
    row, parent = one.row, authority.authorities.get(one.row.parent or "")
    if row.kind == ROOT.name:
        return f"put a new root in its place: edgetrust ca rotate start {one.name}"
    if one.issuer is None:
        where = "where its key is" if row.key_reference is None else f"when its key is back: {row.key_reference}"
        return f"renew it {where}"
    if parent is None or parent.issuer is None or parent.row.state != ACTIVE or not _renamable(one):
        return _by_request(authority, one, row.parent)
    if parent.row.certificate.not_valid_after_utc <= row.certificate.not_valid_after_utc:
        return f"it ends with {parent.name!r} above it: {obstacle(authority, parent) or f'renew {parent.name!r} first'}"
    return None


def to_do(authority: CertificateAuthority, one: Authority) -> str:
    """What will happen to a CA before it ends, or what a person has to do about it."""
    if one.row.state != ACTIVE:
        return "nothing: it issues no more"
    barrier = obstacle(authority, one)
    if barrier is not None:
        return barrier
    how = authority.settings.renew_authorities
    if how == NEVER:
        return f"edgetrust ca renew {one.name}"
    at = renew_at(one.row.certificate, policy_of(authority))
    return f"nothing: it is renewed from {at:%Y-%m-%d} on, {'with its key' if how == SAME_KEY else 'with a new key'}"


def _by_request(authority: CertificateAuthority, one: Authority, parent: str | None) -> str:
    room = _constraints(one.row.certificate).path_length
    asked = [
        f"edgetrust ca issue {one.name}.csr.pem --profile {one.row.kind}",
        "" if room is None else f" --path-length {room}",
        "" if parent is None else f" --authority {parent}",
        f" --out {one.name}.chain.pem",
    ]
    above = authority.authorities.get(parent or "")
    key = None if above is None else above.row.key_reference
    back = "" if key is None or not _renamable(one) else f"bring the key of {parent!r} back for the moment ({key}), or "
    return (
        f"{back}have {request_file(authority, one.name)} certified where the key above it is: {''.join(asked)}; "
        f"then here: edgetrust ca install {one.name} {one.name}.chain.pem"
    )


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value


def _renamable(one: Authority) -> bool:
    """Whether its name is one that this authority writes, so that a new certificate has the same."""
    names = names_of(one.row.certificate)
    return names is not None and names.subject() == one.row.certificate.subject


# Doing it -------------------------------------------------------------------------------------------------------------


async def keep_up(authority: CertificateAuthority) -> tuple[tuple[str, str], ...]:
    """Renew what is due, leave CSRs where that is not possible. Returns names, with what a person has to do, which is
    nothing ("") for those that were renewed.
    """
    done: list[tuple[str, str]] = []
    how = authority.settings.renew_authorities
    for name in [one.name for one in due(authority, authority.clock.now())]:
        one = authority.named(name)
        barrier = obstacle(authority, one)
        if barrier is not None:
            write_request(authority, one)
            done.append((name, barrier))
        elif how == NEVER:
            done.append((name, to_do(authority, one)))
        elif how == SAME_KEY or await _succeeded(authority, name):
            if how == SAME_KEY:
                await renew(authority, name)
            done.append((name, ""))
    if how == NEW_KEY:
        await _go_on(authority)
    return tuple(done)


def write_request(authority: CertificateAuthority, one: Authority) -> None:
    """A CSR for the key and the name that a CA has, if its key is here; written once."""
    file = request_file(authority, one.name)
    if file.exists() or one.issuer is None or one.row.kind == ROOT.name:
        return
    constraints = (_constraints(one.row.certificate), True)
    write_public(file, request_for(one.issuer.key, one.row.certificate.subject, (constraints, *CA_EXTENSIONS)))


async def renew(authority: CertificateAuthority, name: str) -> Chain:
    """A new certificate for a CA, its key and its name, by its parent. UsageError (`authority-not-renewable`)."""
    one = authority.named(name)
    barrier = obstacle(authority, one)
    if barrier is not None or one.row.state != ACTIVE:
        write_request(authority, one)
        raise UsageError(
            f"{name!r} cannot be renewed here", reason="authority-not-renewable", fix=barrier or to_do(authority, one)
        )
    parent, issuer = authority.named(str(one.row.parent)), one.issuer
    names, old, now = names_of(one.row.certificate), one.row.certificate, authority.clock.now()
    assert parent.issuer is not None
    assert issuer is not None
    assert names is not None
    profile = PROFILES[one.row.kind].with_path_length(_constraints(old).path_length)
    capped = old.not_valid_after_utc >= parent.row.certificate.not_valid_after_utc
    life = old.not_valid_after_utc - old.not_valid_before_utc - profile.backdate
    chain = parent.issuer.issue(
        issuer.key.public_key(), profile, names, now, validity=None if capped or life <= profile.backdate else life
    )
    await replace_by(authority, one, chain.end_entity, "renew")
    return chain


async def replace_by(
    authority: CertificateAuthority, one: Authority, certificate: x509.Certificate, operation: str
) -> None:
    """Store a CA's next certificate, with its record. ConfigError (`authority-changed`) if it has another by now."""
    now, serial = authority.clock.now(), serial_text(certificate.serial_number)
    detail = {
        "authority": one.row.parent or one.name,
        "serial": serial,
        "subject": certificate.subject.rfc4514_string(),
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "replaces": serial_text(one.row.certificate.serial_number),
    }

    def work(connection: Connection) -> None:
        if not replace_certificate(connection, one.name, one.row.certificate, certificate):
            raise ConfigError(f"{one.name!r} has another certificate by now", reason="authority-changed")
        parent = one.row.parent
        if parent is not None and issued_by_serial(connection, parent, certificate.serial_number) is None:
            holder = f"<{one.name}>"
            row = IssuedRow(parent, serial, one.row.kind, holder, certificate, now, operation, OPERATOR)
            add_issued(connection, row)
        entry = chained.Entry(now, "authority", OPERATOR, "", f"<{one.name}>", operation, json.dumps(detail))
        chained.append(connection, entry)

    await authority.database.write(work)
    await authority.refresh()
    request_file(authority, one.name).unlink(missing_ok=True)


async def install_next(authority: CertificateAuthority, name: str, chain: Chain) -> None:
    """Take the certificate that came back for `request_file`. Raises UsageError (`certificate-not-next`),
    IntegrityError (`key-certificate-mismatch`).
    """
    one, next_one = authority.named(name), chain.end_entity
    if one.issuer is None:
        raise UsageError(f"the key of {name!r} is not here", reason="authority-key-missing")
    key_matches(chain, one.issuer.key)
    fault = _not_next(one, next_one)
    if fault is not None:
        raise UsageError(f"that is not the next certificate of {name!r}: {fault}", reason="certificate-not-next")
    await replace_by(authority, one, next_one, "install")


def _not_next(one: Authority, found: x509.Certificate) -> str | None:
    held = one.row.certificate
    if found.subject != held.subject:
        return f"its subject is {found.subject.rfc4514_string()!r}, not {held.subject.rfc4514_string()!r}"
    if found.not_valid_after_utc <= held.not_valid_after_utc:
        return "it ends no later than the one in use"
    if not read_once(found).is_ca:
        return "it is no CA's"
    above = one.chain.certificates[1:2]
    try:
        if above:
            found.verify_directly_issued_by(above[0])
    except (InvalidSignature, ValueError, TypeError):
        return f"{above[0].subject.rfc4514_string()!r}, the CA above, did not sign it"
    return None


async def _succeeded(authority: CertificateAuthority, name: str) -> bool:
    """Put a successor with a key of its own into the place of a CA; False if that is under way already."""
    if any(old == name for one in await rotation.rotations(authority) for old, _ in one.pairs):
        return False
    await rotation.start(authority, name)
    for _ in (Stage.DISTRIBUTED, Stage.ACTIVE):  # the root stays, so that nobody has to learn anything first
        await rotation.take(authority, await rotation.preview(authority, await rotation.named(authority, name)))
    return True


async def _go_on(authority: CertificateAuthority) -> None:
    """Take the steps whose evidence is in, of successors that issue already."""
    policy, now = policy_of(authority), authority.clock.now()
    for one in await rotation.rotations(authority):
        old = authority.named(one.old)
        if old.row.parent is None or one.stage not in (Stage.ACTIVE, Stage.TAINTED):
            continue
        step = await rotation.preview(authority, one)
        if is_due(old.row.certificate, policy, now) and not step.lacks:
            await rotation.take(authority, step)
