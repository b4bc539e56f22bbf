"""Serving a gateway in the foreground, from its config.toml: in one process, or by the services of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetrust.cli.output import print_json_line, say

if TYPE_CHECKING:
    from edgetrust.edge.files import Layout
    from edgetrust.edge.gateway import Gateway
    from edgetrust.edge.settings import Settings


def serve_gateway(
    config: Path | None, root: Path, mqtt_port: int | None, https_port: int | None, *, json: bool, alone: bool
) -> None:
    """Serve a gateway: `alone` in one process, or by the key, certificate and identity services of others."""
    from dataclasses import replace

    import structlog

    from edgetrust.cli.ports import https_port as choose
    from edgetrust.cli.running import run
    from edgetrust.clock import SystemClock
    from edgetrust.edge.credentials import NoDevice
    from edgetrust.edge.files import Layout
    from edgetrust.edge.gateway import Gateway
    from edgetrust.edge.processes import as_runtime, start_runtime
    from edgetrust.edge.settings import load_settings
    from edgetrust.errors import Error
    from edgetrust.telemetry import EVENT_CONFIG_NOT_REREAD, set_up_logging

    set_up_logging("json" if json else "text")
    settings = load_settings(config or Layout(root.absolute()).config, keys_elsewhere=not alone)
    listen = replace(
        settings.listen,
        mqtt_port=settings.listen.mqtt_port if mqtt_port is None else mqtt_port,
        https_port=choose(settings.listen.https_port if https_port is None else https_port, settings.listen.host),
    )
    layout = Layout(root.absolute())
    if alone and isinstance(settings.credential, NoDevice):
        _serve_local(settings, layout, json=json)
        return

    def ready(gateway: Gateway) -> None:
        if json:
            print_json_line(_described(gateway))
        else:
            where = f"MQTT on {gateway.mqtt_port}, HTTPS on {gateway.https_port}"
            say(f"ready: {settings.hostname}, {where}, pid {os.getpid()}")

    async def reread(gateway: Gateway) -> None:
        try:
            found = replace(load_settings(settings.source, keys_elsewhere=not alone), listen=listen)
            await gateway.reread(found if alone else as_runtime(found))
        except Error as problem:  # what was in use stays in use
            structlog.get_logger().error(
                EVENT_CONFIG_NOT_REREAD, reason=problem.reason, detail=problem.message, fix=problem.fix
            )

    serving = replace(settings, listen=listen)
    start = Gateway.start if alone else start_runtime
    run(lambda: start(serving, layout, SystemClock()), ready, Gateway.wait_moved, reread)


def _serve_local(settings: Settings, layout: Layout, *, json: bool) -> None:
    """Serve the keys, certificates and local identities of a machine without a hub in one process."""
    from edgetrust.cli.running import run
    from edgetrust.clock import SystemClock
    from edgetrust.edge.processes import LocalServices

    def ready(_process: LocalServices) -> None:
        sockets = {name: str(layout.socket(name)) for name in ("keyd", "certd", "identityd")}
        if json:
            print_json_line({"services": sockets, "pid": os.getpid()})
        else:
            say(f"ready without a hub: {', '.join(sockets.values())}, pid {os.getpid()}")

    run(lambda: LocalServices.start(settings, layout, SystemClock()), ready)


def _described(gateway: Gateway) -> dict[str, Any]:
    """The ready object."""
    return {
        "gateway": {
            "hostname": gateway.settings.hostname,
            "mqtt_port": gateway.mqtt_port,
            "https_port": gateway.https_port,
        },
        "workload_socket": str(gateway.services.workload_socket),
        "certs_dir": str(gateway.layout.certificates),
        "pid": os.getpid(),
    }
