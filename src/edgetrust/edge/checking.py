"""What the checks of a gateway have in common: how one ends, and what it looks at.

Six outcomes, as `iotedge check` has them (edge specification 7.1): `ok`; `warning`, what will not work, or should not
be so in production; `error`, what does not work now; `fatal`, an error without whose removal nothing else can be looked
at; `skipped`, when something else has to be mended first; `ignored`, what does not apply here or was left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from edgetrust.clock import Clock
from edgetrust.edge.files import Layout
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.settings import Settings
from edgetrust.errors import Error


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"
    SKIPPED = "skipped"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Result:
    """One check's outcome; `cause` and `fix` are empty when all is well."""

    check: str
    description: str
    outcome: Outcome
    cause: str = ""
    fix: str = ""


@dataclass(slots=True)
class Bench:
    """What checks look at. `time_server`: an NTP server, host[:port]; None: the hub's clock is compared."""

    config: Path
    layout: Layout
    clock: Clock
    time_server: str | None = None
    settings: Settings | None = None
    store: CertificateStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = CertificateStore(self.layout.certificates)

    @property
    def known(self) -> Settings:
        if self.settings is None:
            raise SkippedError("the configuration cannot be read")
        return self.settings


class SkippedError(Exception):
    """Something else has to be mended first."""


class IgnoredError(Exception):
    """The check does not apply here."""


class FoundError(Exception):
    """What a check found wrong."""

    def __init__(self, cause: str, fix: str = "", *, warning: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.fix, self.warning = cause, fix, warning


Check = Callable[[Bench], Awaitable[None]]


async def run_one(name: str, description: str, check: Check, bench: Bench) -> Result:
    """Run a check; whatever it finds is in the result."""
    try:
        await check(bench)
    except SkippedError as reason:
        return Result(name, description, Outcome.SKIPPED, str(reason))
    except IgnoredError as reason:
        return Result(name, description, Outcome.IGNORED, str(reason))
    except FoundError as found:
        return Result(name, description, Outcome.WARNING if found.warning else Outcome.ERROR, found.cause, found.fix)
    except Error as problem:
        return Result(name, description, Outcome.ERROR, problem.message, problem.fix)
    except OSError as problem:
        return Result(name, description, Outcome.ERROR, str(problem))
    return Result(name, description, Outcome.OK)
