"""Where the decisions of an actor go, before any effect of them: the metric, the log line, the audit trail."""

from __future__ import annotations

import structlog

from edgetrust.store.audit import AuditTrail
from edgetrust.telemetry import DECISIONS, EVENT_ACCEPTED, EVENT_REFUSED
from edgetrust.trust.audit import Record

_log = structlog.get_logger()


class Auditor:
    """The broker's Auditor port. A refusal is logged with the check that failed, an acceptance in few words."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def record(self, record: Record) -> None:
        """Count, log and keep one decision. Returns at once."""
        DECISIONS.labels("accepted" if record.accepted else "refused", record.reason).inc()
        if record.accepted:
            _log.debug(
                EVENT_ACCEPTED, place=record.place, peer=record.peer, identity=record.identity, how=record.reason
            )
        else:
            failed = next((check for check in reversed(record.checks) if not check.passed), None)
            _log.warning(
                EVENT_REFUSED,
                place=record.place,
                peer=record.peer,
                identity=record.identity,
                reason=record.reason,
                detail="" if failed is None else failed.detail,
            )
        self._trail.record(record)
