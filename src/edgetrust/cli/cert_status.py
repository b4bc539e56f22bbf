"""`edgetrust cert status` and `needs-renewal`: how much life certificates have left, and how their renewal goes.

A place is a directory of `device enroll`, the root of a gateway, or a certificate file. The end that counts is that of
the chain: a certificate is of no use after its issuer has ended. Exit code of `needs-renewal`: 0 no, 1 yes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.enroll_state import is_enrolled, load, load_state, period
from edgetrust.cli.output import Json, duration, iso, print_facts, print_json, print_line, utc
from edgetrust.edge.files import Layout
from edgetrust.pki.chain import Chain
from edgetrust.pki.renewal import AutoRenew, RenewalState, effective_end, is_due, next_attempt

_BAR = 40  # characters of a bar
Place = Annotated[
    Path, typer.Argument(metavar="PLACE", help="A directory of device enroll, a gateway's root, or a certificate.")
]
Threshold = Annotated[
    str, typer.Option("--threshold", help='When it is due: a share of the life ("80%"), or a time left ("10 day").')
]


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate in use. `policy` None: it does not renew itself; then `renewal` says what renews it."""

    name: str
    file: Path
    chain: Chain
    policy: AutoRenew | None
    renewal: str = ""
    state: RenewalState = RenewalState()  # noqa: RUF009 - frozen

    def next_at(self, now: datetime) -> datetime | None:
        """When it is renewed, or tried again."""
        return None if self.policy is None else next_attempt(self.chain, self.policy, self.state, now)


def status(place: Place, *, json: Json = False) -> None:
    """Days left, next renewal, last error of the certificates in a place, with a bar of each one's life."""
    now = datetime.now(UTC)
    held = find(place)
    if json:
        print_json([_as_json(one, now) for one in held])
        return
    for number, one in enumerate(held):
        if number:
            print_line()
        print_line(f"{one.name}  {one.chain.end_entity.subject.rfc4514_string()}")
        print_facts(_facts(one, now), indent="  ")


def needs_renewal(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Certificate or chain, PEM or DER.")],
    *,
    threshold: Threshold = "80%",
    json: Json = False,
) -> None:
    """Whether a certificate is to be renewed: exit code 0 no, 1 yes; for scripts and timers."""
    chain, now = read_chain(file), datetime.now(UTC)
    policy = AutoRenew(threshold=period(threshold))
    due = is_due(chain.end_entity, policy, now) or now >= effective_end(chain)
    if json:
        print_json({"file": str(file), "needsRenewal": due, "notAfter": iso(effective_end(chain))})
    else:
        print_line(f"{'yes' if due else 'no'}: {_left(effective_end(chain), now)}")
    if due:
        raise typer.Exit(1)


def find(place: Path) -> list[Held]:
    """The certificates in use in a place. Raises UsageError, ConfigError, UnavailableError."""
    if is_enrolled(place):
        return [_of_device(place)]
    if place.is_dir():
        return _of_gateway(place)
    return [Held(place.name, place, read_chain(place), None, "not known here")]


def _of_device(directory: Path) -> Held:
    from edgetrust.device.identity import IdentityFolder

    enrolled, file = load(directory), IdentityFolder(directory).certificate_file
    return Held(enrolled.device, file, read_chain(file), enrolled.policy(), state=load_state(directory))


def _of_gateway(root: Path) -> list[Held]:
    from edgetrust.edge.status import read_state

    return [_of_state(entry) for entry in read_state(Layout(root.absolute()).status)["certificates"]]


def _of_state(entry: dict[str, Any]) -> Held:
    policy, state = entry.get("auto_renew"), entry.get("renewal") or {}
    known = RenewalState(
        _time(state.get("renewed_at")),
        _time(state.get("failed_at")),
        state.get("failures", 0),
        state.get("problem", ""),
    )
    return Held(
        entry["id"],
        Path(entry["file"]),
        read_chain(Path(entry["file"])),
        policy and AutoRenew(policy["rotate_key"], period(policy["threshold"]), period(policy["retry"])),
        "" if policy else "replace its files",
        known,
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _facts(one: Held, now: datetime) -> list[tuple[str, str]]:
    leaf, end, next_at = one.chain.end_entity, effective_end(one.chain), one.next_at(now)
    capped = end < leaf.not_valid_after_utc
    return [
        ("file", str(one.file)),
        ("life", _bar(leaf.not_valid_before_utc, end, next_at, now)),
        ("valid", f"{utc(leaf.not_valid_before_utc)} to {utc(end)}{' (its issuer ends then)' if capped else ''}"),
        ("left", _left(end, now)),
        ("renewal", one.renewal if next_at is None else f"next {utc(next_at)}" if next_at > now else "due now"),
        ("renewed", "" if one.state.renewed_at is None else utc(one.state.renewed_at)),
        ("problem", _problem(one.state)),
    ]


def _problem(state: RenewalState) -> str:
    if not state.problem or state.failed_at is None:
        return ""
    return f"{state.problem} ({state.failures} in a row, last {utc(state.failed_at)})"


def _left(end: datetime, now: datetime) -> str:
    return f"{duration(end - now)} left" if end > now else f"ended {duration(now - end)} ago"


def _bar(start: datetime, end: datetime, next_at: datetime | None, now: datetime) -> str:
    """`[=====>----R---]`: the life used, and where the renewal is."""
    cells = ["-"] * _BAR
    used = _cell(now, start, end)
    cells[:used] = "=" * used
    if next_at is not None and start <= next_at < end:
        cells[min(_cell(next_at, start, end), _BAR - 1)] = "R"
    share = max(0, min(100, round(100 * (now - start) / max(end - start, timedelta(seconds=1)))))
    return f"[{''.join(cells)}] {share} % used"


def _cell(at: datetime, start: datetime, end: datetime) -> int:
    share = (at - start) / max(end - start, timedelta(seconds=1))
    return max(0, min(_BAR, int(share * _BAR)))


def _as_json(one: Held, now: datetime) -> dict[str, Any]:
    leaf, end, next_at = one.chain.end_entity, effective_end(one.chain), one.next_at(now)
    return {
        "id": one.name,
        "file": str(one.file),
        "subject": leaf.subject.rfc4514_string(),
        "notBefore": iso(leaf.not_valid_before_utc),
        "notAfter": iso(leaf.not_valid_after_utc),
        "effectiveEnd": iso(end),
        "daysLeft": round((end - now) / timedelta(days=1), 2),
        "renewsItself": one.policy is not None,
        "nextRenewal": None if next_at is None else iso(next_at),
        "renewedAt": None if one.state.renewed_at is None else iso(one.state.renewed_at),
        "failures": one.state.failures,
        "lastError": one.state.problem or None,
    }
