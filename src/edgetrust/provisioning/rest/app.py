"""The provisioning service's HTTPS application, and which paths are its own."""

from __future__ import annotations

from aiohttp import web

from edgetrust.limits import HTTP_BODY_BYTES
from edgetrust.provisioning.rest import certificates, devices, enrollments
from edgetrust.provisioning.rest.parts import PARTS, Parts, api_version_named, errors_answered

_OWN = ("enrollments", "enrollmentgroups", "registrations", "provisioningservices")
_SECOND = "registrations"  # /{idScope}/registrations/...


def build_app(parts: Parts) -> web.Application:
    """The application over `parts`."""
    app = web.Application(middlewares=[errors_answered, api_version_named], client_max_size=HTTP_BODY_BYTES)
    app[PARTS] = parts
    app.add_routes(certificates.routes)
    enrollments.add_routes(app)
    app.add_routes(devices.routes)
    return app


def is_own_path(path: str) -> bool:
    """Whether a request is the provisioning service's."""
    first, _, rest = path.removeprefix("/").partition("/")
    return first.lower() in _OWN or rest.partition("/")[0] == _SECOND
