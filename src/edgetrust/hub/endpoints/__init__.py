"""Endpoints: where routes deliver events. Each raises UnavailableError until it has them; the route tries again."""

from edgetrust.hub.endpoints.file import FileEndpoint
from edgetrust.hub.endpoints.log import LogEndpoint
from edgetrust.hub.endpoints.port import RouteEndpoint
from edgetrust.hub.endpoints.webhook import WebhookEndpoint

__all__ = ["FileEndpoint", "LogEndpoint", "RouteEndpoint", "WebhookEndpoint"]
