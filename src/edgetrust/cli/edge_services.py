"""`edgetrust edge keyd`, `certd`, `identityd`, `edged`: the services of a gateway, each as a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgetrust.cli.edge_check import ConfigOption, RootOption
from edgetrust.cli.edge_serving import serve_gateway
from edgetrust.cli.output import Json, print_json_line, print_line, say
from edgetrust.cli.ports import HttpsPort, MqttPort


def keyd(config: ConfigOption = None, root: RootOption = Path("/"), *, json: Json = False) -> None:
    """Serve the keys of a gateway: of the four processes, the only one that reads a private key."""
    _serve("keyd", config, root, json=json)


def certd(config: ConfigOption = None, root: RootOption = Path("/"), *, json: Json = False) -> None:
    """Serve the certificates of a gateway: keep, issue and renew them. Asks the key service to sign."""
    _serve("certd", config, root, json=json)


def identityd(config: ConfigOption = None, root: RootOption = Path("/"), *, json: Json = False) -> None:
    """Serve the identities of a gateway: the device and its modules at the hub."""
    _serve("identityd", config, root, json=json)


def edged(
    config: ConfigOption = None,
    root: RootOption = Path("/"),
    mqtt_port: MqttPort = None,
    https_port: HttpsPort = None,
    *,
    json: Json = False,
) -> None:
    """Serve devices and modules, with keys, certificates and identities from the other three processes."""
    serve_gateway(config, root, mqtt_port, https_port, json=json, alone=False)


def _serve(name: str, config: Path | None, root: Path, *, json: bool) -> None:
    from edgetrust.cli.running import run
    from edgetrust.clock import SystemClock
    from edgetrust.edge import processes
    from edgetrust.edge.files import Layout
    from edgetrust.edge.settings import load_settings
    from edgetrust.telemetry import set_up_logging

    set_up_logging("json" if json else "text")
    layout = Layout(root.absolute())
    kinds = {
        kind.name: kind for kind in (processes.KeyProcess, processes.CertificateProcess, processes.IdentityProcess)
    }
    settings = load_settings(config or layout.config, keys_elsewhere=name != "keyd")

    def ready(process: processes.ServiceProcess) -> None:
        socket = str(layout.socket(process.name))
        if json:
            print_json_line({"service": process.name, "socket": socket, "pid": os.getpid()})
        else:
            say(f"ready: {process.name} on {socket}, pid {os.getpid()}")

    start = kinds[name].start
    run(lambda: start(settings, layout, SystemClock()), ready, lambda process: process.wait_moved())


def units(
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Write the files below it: /etc on the gateway.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """The systemd units, users and directories for the services as processes of their own: print or write them."""
    import shutil

    from edgetrust.cli.output import print_block, print_json
    from edgetrust.edge.units import unit_files
    from edgetrust.pki.softkeys import write_public

    program = shutil.which("edgetrust") or str(Path(sys.argv[0]).absolute())
    files = unit_files(program)
    if into is not None:
        for name, text in files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            write_public(into / name, text.encode())
    if json:
        print_json(files)
    elif into is None:
        for name, text in files.items():
            print_block(f"# {name}\n{text}")
    else:
        for name in files:
            print_line(str(into / name))
        say("then: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload")
