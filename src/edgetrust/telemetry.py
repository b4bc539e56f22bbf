"""Names of log events and metrics, and the set-up of structured logging.

Every name that somebody may alert on is a constant here, so that the reference page can be generated and a rename is seen. A
label never carries a secret, and only bounded sets (reason, kind) are labels.
"""

from __future__ import annotations

import sys
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

METRICS = CollectorRegistry(auto_describe=True)

DECISIONS = Counter(
    "edgetrust_decisions", "Trust decisions, by outcome and reason.", ["outcome", "reason"], registry=METRICS
)
CONNECTIONS = Gauge("edgetrust_connections", "Open client connections, by protocol.", ["protocol"], registry=METRICS)
MESSAGES_IN = Counter("edgetrust_messages_received", "Messages stored durably, by kind.", ["kind"], registry=METRICS)
HANDSHAKES_FAILED = Counter(
    "edgetrust_tls_handshakes_failed", "TLS handshakes that did not finish, by cause.", ["cause"], registry=METRICS
)

EVENT_ACCEPTED = "connection.accepted"
EVENT_REFUSED = "connection.refused"
EVENT_CLOSED = "connection.closed"
EVENT_READY = "service.ready"
EVENT_STOPPED = "service.stopped"
EVENT_SCOPE_SYNCHRONISED = "scope.synchronised"
EVENT_UPSTREAM_LOST = "upstream.lost"
EVENT_UPSTREAM_CONNECTED = "upstream.connected"
EVENT_CERTIFICATE_ISSUED = "certificate.issued"
EVENT_CERTIFICATE_EXPIRING = "certificate.expiring"
EVENT_QUICKSTART_CA = "edge_ca.quickstart"
EVENT_HANDSHAKE_FAILED = "tls.handshake_failed"
EVENT_CONNECTION_FAULT = "connection.fault"


def set_up_logging(form: Literal["text", "json"] = "text", *, level: str = "info") -> None:
    """Log to stderr, one line per event, times in UTC. `json` for machines."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
