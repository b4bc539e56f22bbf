"""What ends when: the certificate that each identity uses now, and every CA, in order of their ends.

Rules. Of several certificates of one identity and kind the one that ends last counts: whoever has renewed is not
forecast. Revoked and replaced ones are left out. Must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from edgetrust.ca import upkeep
from edgetrust.ca.authority import RETIRED, CertificateAuthority
from edgetrust.store.issuance import last_ends
from edgetrust.telemetry import CERTIFICATES_VALID, FIRST_NOT_AFTER


@dataclass(frozen=True, slots=True)
class Ending:
    """One certificate in use. `kind` is its profile, `name` the identity, or the CA in angle brackets;
    `to_do`, of a CA, is what happens before its end, or what a person has to do."""

    kind: str
    name: str
    authority: str
    serial: str
    not_after: datetime
    to_do: str = ""


async def in_use(authority: CertificateAuthority) -> tuple[Ending, ...]:
    """Everything that is in use, what ends first first. Expired ones count too: nobody has renewed them."""
    rows = await authority.database.read(last_ends)
    retired = {f"<{one.name}>" for one in authority.authorities.values() if one.row.state == RETIRED}
    found = [Ending(kind, name, ca, serial, end) for name, kind, ca, serial, end in rows if name not in retired]
    known = {one.name for one in found} | retired
    found += [
        Ending(one.row.kind, f"<{one.name}>", one.row.parent or "", "", one.row.certificate.not_valid_after_utc)
        for one in authority.authorities.values()
        if f"<{one.name}>" not in known
    ]
    cas = {f"<{one.name}>": upkeep.to_do(authority, one) for one in authority.authorities.values()}
    found = [replace(one, to_do=cas.get(one.name, "")) for one in found]
    return tuple(sorted(found, key=lambda one: (one.not_after, one.name)))


def within(endings: Iterable[Ending], now: datetime, days: int) -> tuple[Ending, ...]:
    """Those that end in the next `days`, or have ended."""
    until = now + timedelta(days=days)
    return tuple(one for one in endings if one.not_after <= until)


def measure(endings: Sequence[Ending], now: datetime) -> None:
    """Set the gauges: per kind the first end, and how many are valid."""
    FIRST_NOT_AFTER.clear()
    CERTIFICATES_VALID.clear()
    for one in endings:
        CERTIFICATES_VALID.labels(one.kind).inc(1 if one.not_after > now else 0)
    for one in reversed(endings):  # the first end is set last
        FIRST_NOT_AFTER.labels(one.kind).set(one.not_after.timestamp())


def calendar(endings: Iterable[Ending], now: datetime) -> str:
    """An iCalendar file (RFC 5545) with one entry per end; lines end in CRLF and have at most 75 octets."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//edgetrust//certificates//EN"]
    for one in endings:
        lines += [
            "BEGIN:VEVENT",
            f"UID:{one.serial or one.name.strip('<>')}-{one.authority or 'root'}@edgetrust",
            f"DTSTAMP:{_stamp(now)}",
            f"DTSTART:{_stamp(one.not_after)}",
            f"SUMMARY:{_escaped(f'{one.kind} certificate of {one.name} ends')}",
            "END:VEVENT",
        ]
    return "".join(f"{_folded(line)}\r\n" for line in [*lines, "END:VCALENDAR"])


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")


def _folded(line: str) -> str:
    return "\r\n ".join(line[at : at + 70] for at in range(0, len(line), 70))
