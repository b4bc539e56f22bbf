"""The error tree. Local fault and peer's fault are different families; each knows what to say and how to end.

    Error                     everything this project raises on purpose
      UsageError              the caller asked for something that cannot be                       exit 2
      ConfigError             a configuration file is wrong; names the place and the fix          exit 2
      PeerError               the other side broke a protocol rule; carries the status to answer  exit 1
      UnavailableError        something needed is away; try again after `retry_after`             exit 3
      IntegrityError          stored or received material contradicts itself                      exit 4
      RefusedError            a trust decision said no                                            exit 1

`reason` is a stable slug: the log field, the metric label and the documentation anchor. The message is for people and
may change. Nothing here knows about HTTP, MQTT or the command line beyond the numbers they need.
"""

from __future__ import annotations


class Error(Exception):
    """The root. `reason` is a stable slug, `fix` one sentence that tells how to mend it (may be empty)."""

    exit_code = 1

    def __init__(self, message: str, *, reason: str = "error", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.fix = fix

    def diagnosis(self) -> str:
        """What happened and what to do about it, for a person; one or two lines, no secrets."""
        return f"{self.message}\nfix: {self.fix}" if self.fix else self.message


class UsageError(Error):
    """The caller asked for something that cannot be done as asked."""

    exit_code = 2


class ConfigError(Error):
    """A configuration is wrong. The message names the file and the key."""

    exit_code = 2


class PeerError(Error):
    """The peer broke a rule of the protocol. `status` is the HTTP status (or CONNACK code) that answers it."""

    def __init__(self, message: str, *, reason: str, status: int = 400, fix: str = "") -> None:
        super().__init__(message, reason=reason, fix=fix)
        self.status = status


class UnavailableError(Error):
    """Something we depend on is away. `retry_after` is in seconds."""

    exit_code = 3

    def __init__(self, message: str, *, reason: str = "unavailable", retry_after: float = 1.0, fix: str = "") -> None:
        super().__init__(message, reason=reason, fix=fix)
        self.retry_after = retry_after


class IntegrityError(Error):
    """Material contradicts itself: a key that does not fit its certificate, a store that lost a row."""

    exit_code = 4


class RefusedError(Error):
    """A trust decision refused. The verdict itself is in `verdict` when one was made here."""

    def __init__(self, message: str, *, reason: str, verdict: object = None, fix: str = "") -> None:
        super().__init__(message, reason=reason, fix=fix)
        self.verdict = verdict
