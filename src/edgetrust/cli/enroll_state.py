"""A device's enrolment on disk: what was ordered where (`enrolment.json`), and how its renewal goes (`state.json`).

What `device enroll` was told is kept beside the identity, so that `device renew` needs to be told nothing. Passwords
and keys stay in their own files; only their paths are kept. The renewal that comes of it is made in `enroll_renewal`:
who only reads the state imports no client.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from edgetrust.errors import ConfigError, UsageError
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.renewal import AutoRenew, Period, RenewalState
from edgetrust.pki.softkeys import write_public

_ENROLMENT, _STATE = "enrolment.json", "state.json"


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What was ordered. Paths are absolute. `hub` is NAME:PORT when new certificates are proven by connecting there,
    through `gateway` (HOST:PORT) if that is set. `through` is the gateway that passes the EST server's name on.
    """

    device: str
    est: str
    ca: str | None = None
    bootstrap_cert: str | None = None
    bootstrap_key: str | None = None
    user: str | None = None
    password_file: str | None = None
    key: str = KeyAlgorithm.P256.value
    rotate_key: bool = True
    threshold: str = "80%"
    retry: str = "4%"
    hub: str | None = None
    gateway: str | None = None
    address: str | None = None
    trust: str | None = None
    through: str | None = None

    def policy(self) -> AutoRenew:
        """When to renew. Raises UsageError."""
        return AutoRenew(self.rotate_key, period(self.threshold), period(self.retry))


class _State(msgspec.Struct, frozen=True, kw_only=True):
    renewed_at: datetime | None = None
    failed_at: datetime | None = None
    failures: int = 0
    problem: str = ""


def period(text: str) -> Period:
    """A share of the life, or a time. Raises UsageError."""
    found = Period.parse(text)
    if found is None:
        raise UsageError(
            f"{text!r} is no period", reason="period-malformed", fix='a number with %, min or day: "80%", "30 min"'
        )
    return found


def save(directory: Path, enrolled: Enrolled) -> None:
    """Keep what was ordered."""
    content = msgspec.json.format(msgspec.json.encode(enrolled), indent=2) + b"\n"
    write_public(directory / _ENROLMENT, content)


def load(directory: Path) -> Enrolled:
    """What was ordered. Raises ConfigError."""
    path = directory / _ENROLMENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Enrolled)
    except FileNotFoundError as problem:
        message = f"nothing was enrolled into {directory}: {path} does not exist"
        raise ConfigError(message, reason="not-enrolled", fix="edgetrust device enroll ID --into DIR") from problem
    except (OSError, msgspec.MsgspecError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}", reason="config-unreadable") from problem


def is_enrolled(directory: Path) -> bool:
    """Whether a device was enrolled into this directory."""
    return (directory / _ENROLMENT).is_file()


def load_state(directory: Path) -> RenewalState:
    """How the renewal goes; nothing is known when the file is missing or was damaged."""
    try:
        state = msgspec.json.decode((directory / _STATE).read_bytes(), type=_State)
    except (OSError, msgspec.MsgspecError):
        return RenewalState()
    return RenewalState(state.renewed_at, state.failed_at, state.failures, state.problem)


def save_state(directory: Path, state: RenewalState) -> None:
    """Write down how the renewal goes."""
    kept = _State(
        renewed_at=state.renewed_at, failed_at=state.failed_at, failures=state.failures, problem=state.problem
    )
    write_public(directory / _STATE, msgspec.json.encode(kept) + b"\n")
