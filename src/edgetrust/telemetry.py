"""Names of log events and metrics, and the set-up of structured logging.

Every name that somebody may alert on is a constant here, so that the reference page can be generated and a rename is
seen. A label never carries a secret, and only bounded sets (reason, kind) are labels.
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
MESSAGES_REPEATED = Counter(
    "edgetrust_messages_repeated",
    "Messages that a gateway handed on again and that were there already.",
    registry=METRICS,
)
TWIN_REQUESTS = Counter(
    "edgetrust_twin_requests",
    "Twin requests of devices, by kind and MQTT status.",
    ["kind", "status"],
    registry=METRICS,
)
METHOD_CALLS = Counter("edgetrust_method_calls", "Direct methods, by outcome.", ["outcome"], registry=METRICS)
HANDSHAKES_FAILED = Counter(
    "edgetrust_tls_handshakes_failed", "TLS handshakes that did not finish, by cause.", ["cause"], registry=METRICS
)
REMOVED = Counter("edgetrust_removed", "What housekeeping removed from the store, by kind.", ["kind"], registry=METRICS)
LOG_BYTES = Gauge("edgetrust_event_log_bytes", "Size of the event log, where retention bounds it.", registry=METRICS)
ROUTE_DELIVERED = Counter("edgetrust_route_delivered", "Events delivered, by route.", ["route"], registry=METRICS)
ROUTE_FAILURES = Counter("edgetrust_route_failures", "Deliveries that failed, by route.", ["route"], registry=METRICS)
ROUTE_LAG = Gauge(
    "edgetrust_route_lag",
    "How far a route is behind the newest event.",
    ["route"],
    registry=METRICS,
)

FIRST_NOT_AFTER = Gauge(
    "edgetrust_certificate_first_not_after_seconds",
    "When the first certificate in use of a kind ends, seconds since 1970.",
    ["kind"],
    registry=METRICS,
)
CERTIFICATES_VALID = Gauge(
    "edgetrust_certificates_in_use", "Valid certificates in use, by kind.", ["kind"], registry=METRICS
)

EVENT_ACCEPTED = "connection.accepted"  # a peer was accepted, before its session opens (debug)
EVENT_REFUSED = "connection.refused"  # a peer was refused; with the reason and what the failing check saw
EVENT_CLOSED = "connection.closed"  # an MQTT connection ended; with the cause (debug)
EVENT_READY = "service.ready"  # the listeners are open
EVENT_STOPPED = "service.stopped"  # everything is closed and on disk
EVENT_SCOPE_SYNCHRONISED = "scope.synchronised"  # the gateway's copy equals the hub's part for it
EVENT_UPSTREAM_LOST = "upstream.lost"  # the connection to the hub ended
EVENT_CHILD_LINK_LOST = "child_link.lost"  # a connection in the name of somebody below ended or cannot be made
EVENT_TWIN_COPY_UNREADABLE = "twin_copy.unreadable"  # the gateway's copy of a twin was sealed with another key
EVENT_TWIN_REPORT_REFUSED = "twin_report.refused"  # the hub will never take a report that waited: it was dropped
EVENT_UPSTREAM_CONNECTED = "upstream.connected"  # the connection to the hub stands
EVENT_MESSAGE_DROPPED = "upstream.dropped"  # a queued message can never be delivered: its sender left the scope
EVENT_SCOPE_NOT_SYNCHRONISED = "scope.not_synchronised"  # the copy could not be brought up to date; it stays in use
EVENT_HELD_KEY_FAILED = "key.failed"  # a key in a token or another process did not sign for TLS; with the reason
EVENT_GATEWAY_ASSIGNED = "gateway.assigned"  # a provisioning service has said which hub and device it is
EVENT_GATEWAY_DEGRADED = "gateway.degraded"  # the gateway goes on with what it remembers; with the reason
EVENT_QUEUE_EXPIRED = "upstream.expired"  # queued messages were dropped: they waited longer than the configuration says
EVENT_METRICS_NOT_SERVED = "metrics.not_served"  # the port for a gateway's metrics is taken: it goes on without
EVENT_QUEUE_REFUSES = "queue.refuses"  # full queues or a full disk: publishers are held back; with the reason
EVENT_QUEUE_TAKES_AGAIN = "queue.takes_again"  # what was held back is stored; publishers go on
EVENT_QUEUE_MADE_ROOM = "queue.made_room"  # the queues are full: the oldest of the last priority were dropped
EVENT_MESSAGES_UNROUTED = "route.no_match"  # messages that no route of the gateway takes were dropped
EVENT_ROUTES_APPLIED = "route.applied"  # the gateway's routes are other ones from now on
EVENT_ROUTE_UNUSABLE = "route.unusable"  # something in the desired properties of $edgeHub cannot be used; with the fix
EVENT_OWN_TWIN_FAILED = "own_twin.failed"  # the gateway's own twin could not be read or told; it is tried again
EVENT_QUEUE_NOT_SHORTENED = "upstream.not_forgotten"  # what arrived stays in the queue and may be sent twice
EVENT_STATE_NOT_WRITTEN = "gateway.state_not_written"  # the state file is older than the state
EVENT_EDGE_CA_CHAIN = "edge_ca.chain"  # what stands above the Edge CA in its file does not fit
EVENT_SCOPE_UNREADABLE = "scope.copy_unreadable"  # the copy was sealed with another key and is forgotten
EVENT_AUTHORITIES_UNREADABLE = "scope.authorities_unreadable"  # the remembered CAs cannot be read
EVENT_SCOPE_NOT_ANSWERED = "scope.not_answered"  # no answer about one identity; the copy decides
EVENT_CONFIG_WARNING = "config.warning"  # a setting has no effect, or is not for production
EVENT_NAMES_CHANGED = "gateway.names"  # the gateway is known by other names now; its certificate has been replaced
EVENT_CONFIG_NOT_REREAD = "config.not_reread"  # the configuration as it is now is wrong: what was in use stays in use
EVENT_CERTIFICATE_ISSUED = "certificate.issued"  # a certificate was issued and stored
EVENT_ENROLL_REFUSED = "certificate.refused"  # a certificate was not issued; with the reason and what the check saw
EVENT_CERTIFICATE_EXPIRING = "certificate.expiring"  # a certificate nears its end and is not renewed by itself
EVENT_CERTIFICATE_RENEWED = "certificate.renewed"  # a certificate was replaced by its successor, which was proven
EVENT_CERTIFICATE_NOT_RENEWED = "certificate.not_renewed"  # a renewal failed; the old stays, it is tried again
EVENT_CERTIFICATE_TAKEN = "certificate.taken"  # changed files of the server certificate are in use now
EVENT_CERTIFICATE_NOT_TAKEN = "certificate.not_taken"  # changed files cannot be used; the old certificate stays
EVENT_STORE_UNAVAILABLE = "store.unavailable"  # the hub's periodic work met a store that cannot be used; it goes on
EVENT_REQUEST_FAILED = "request.failed"  # a request to the hub was answered 503 for a reason on our side
EVENT_UPLOADED = "upload.notified"  # a device says that a file is uploaded, or not; and whether it is there
EVENT_TRIMMED = "events.trimmed"  # old events were forgotten, as retention says; how many for age and for size
EVENT_REGISTRATION_FAILED = "registration.failed"  # a device that proved itself could not be assigned; with the reason
EVENT_HUB_UNREACHABLE = "provisioning.hub_unreachable"  # a linked hub could not be asked to give up a device
EVENT_ROUTED = "event.routed"  # an event, as an endpoint of type log writes it
EVENT_ROUTE_FAILED = "route.failed"  # an endpoint does not take events; it is tried again until it does
EVENT_ROUTE_RECOVERED = "route.recovered"  # the endpoint takes events again
EVENT_SERVICE_FAILED = "service.failed"  # a local service answered `internal error`; with the number in the answer
EVENT_SERVICE_WAITING = "service.waiting"  # a service of a gateway waits for another one to start
EVENT_SERVICE_THROTTLED = "service.throttled"  # a user has too many requests open; the connection was closed
EVENT_MODULE_STARTED = "module.started"  # a module's process runs
EVENT_MODULE_ENDED = "module.ended"  # a module's process ended or could not be started; it is started again
EVENT_TASK_FAILED = "task.failed"  # background work ended by an error
EVENT_QUICKSTART_CA = "edge_ca.quickstart"  # the self-signed Edge CA is in use
EVENT_HANDSHAKE_FAILED = "tls.handshake_failed"  # a TLS handshake did not finish; with the reason
EVENT_FORWARD_UNREACHABLE = "forward.unreachable"  # a service that is passed on to cannot be reached; with the fix
EVENT_CONNECTION_FAULT = "connection.fault"  # a defect ended one connection; with the traceback


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
