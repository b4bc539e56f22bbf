"""`edgetrust edge`: serve a gateway from its config.toml, and show what one is doing."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.edge_check import ConfigOption, RootOption, apply, check
from edgetrust.cli.edge_services import certd, edged, identityd, keyd, units
from edgetrust.cli.edge_serving import serve_gateway
from edgetrust.cli.output import Json, duration, print_block, print_facts, print_json, print_line, say
from edgetrust.cli.ports import HttpsPort, MqttPort
from edgetrust.clock import SystemClock
from edgetrust.limits import REFUSALS_KEPT

_BAR = 20  # characters of a bar
_ALL_OF_IT = 200  # the status of a deployment

app = typer.Typer(help="Serve an edge gateway; show what it is doing.", no_args_is_help=True)
app.command("check")(check)
app.command("apply")(apply)
for _process in (keyd, certd, identityd, edged, units):
    app.command(_process.__name__)(_process)


@app.command()
def serve(
    config: ConfigOption = None,
    root: RootOption = Path("/"),
    mqtt_port: MqttPort = None,
    https_port: HttpsPort = None,
    *,
    json: Json = False,
) -> None:
    """Serve a gateway until it is told to stop. With --json prints one object when it is ready.

    At SIGHUP it reads hostname and names again and has a certificate for them, and takes up replaced certificates and
    keys, while devices stay connected.
    """
    serve_gateway(config, root, mqtt_port, https_port, json=json, alone=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="config.yaml of version 1.1.")],
) -> None:
    """Print the config.toml that says what a config.yaml of version 1.1 said."""
    from edgetrust.config import read_text
    from edgetrust.edge.imported import import_config

    imported = import_config(read_text(file), str(file))
    print_block(imported.toml)
    for name in imported.left_out:
        say(f"not carried over: {name}")


@app.command()
def status(root: RootOption = Path("/"), *, json: Json = False) -> None:
    """What the gateway below a root is doing: its identity, the hub, the queue, and what expires when."""
    from edgetrust.edge.files import Layout
    from edgetrust.edge.status import read_state, services_of

    state = read_state(Layout(root.absolute()).status)
    state["running"] = _runs(int(state["pid"]))
    state["services"] = services_of(Layout(root.absolute()))
    if json:
        print_json(state)
        return
    _print(state)


@app.command()
def refusals(
    root: RootOption = Path("/"),
    *,
    limit: Annotated[int, typer.Option(min=1, max=REFUSALS_KEPT, help="At most that many.")] = 20,
    json: Json = False,
) -> None:
    """The last connections that the gateway below a root refused, newest first, with all their checks."""
    from edgetrust.cli.refusals import print_refusals
    from edgetrust.edge.files import Layout
    from edgetrust.edge.status import last_refusals

    print_refusals(last_refusals(Layout(root.absolute()).database, limit), json=json)


def _passed_on(forward: dict[str, Any]) -> str:
    names = sorted({*forward["https"], *forward["mqtt"]})
    return f"{', '.join(names)}; {forward['open']} connections" if names else ""


def _print(state: dict[str, Any]) -> None:
    identity, upstream, scope, queue = state["identity"], state["upstream"], state["scope"], state["queue"]
    hub = "connected" if upstream["connected"] else f"not connected: {upstream['problem']}"
    print_facts(
        [
            ("device", f"{identity['device']} at {identity['hub']}"),
            ("gateway", "{hostname}, MQTT on {mqtt_port}, HTTPS on {https_port}".format(**state["gateway"])),
            ("process", f"{state['pid']}" if state["running"] else f"{state['pid']}, not running any more"),
            ("hub", hub),
            ("degraded", upstream["degraded"]),
            ("services", ", ".join(f"{name} {_word(up)}" for name, up in state["services"].items())),
            ("scope", _scope(scope)),
            *_routing(state["routing"]),
            ("queue", f"{queue['messages']} messages, {queue['bytes']} bytes"),
            ("sessions", f"{state['sessions']}"),
            ("passes on", _passed_on(state["forward"])),
            *(("certificate", _certificate(one)) for one in state["certificates"]),
            *(
                ("error", f"{one['id']} was not renewed: {one['renewal']['problem']}")
                for one in state["certificates"]
                if (one["renewal"] or {}).get("problem")
            ),
            *(("warning", warning) for warning in state["warnings"]),
        ]
    )


def _routing(routing: dict[str, Any]) -> list[tuple[str, str]]:
    """The routes in force, and what of the deployment is not."""
    routes = routing["routes"]
    if routes is None:
        facts = [("routes", "everything goes to the hub")]
    else:
        status = "all of it in force" if routing["status"]["code"] == _ALL_OF_IT else "not all of it in force"
        facts = [("routes", f"version {routing['version']} of the deployment, {status}")]
        facts += [("route", f"{name}: {_route(route)}") for name, route in sorted(routes.items())]
    for one in routing["problems"]:
        facts.append(("error", f"{one['place']}: {one['problem']}" + (f" ({one['fix']})" if one["fix"] else "")))
    return facts


def _route(route: dict[str, Any]) -> str:
    named = (("priority", "priority {}"), ("timeToLiveSecs", "kept {} s"))
    return ", ".join([str(route["route"]), *(text.format(route[name]) for name, text in named if name in route)])


def _certificate(one: dict[str, Any]) -> str:
    """Subject and end, and below a bar of what is left of its life."""
    begin, end = (datetime.fromisoformat(one[name]) for name in ("valid_from", "expires_at"))
    now = SystemClock().now()
    left = max(0.0, min(1.0, (end - now) / (end - begin)))
    filled = round(left * _BAR)
    bar = f"[{'#' * filled}{'.' * (_BAR - filled)}]"
    rest = "expired" if one["expired"] else f"{left:.0%} left, {duration(end - now)}"
    return f"{one['subject']} until {one['expires_at']}{' (expired)' if one['expired'] else ''}\n{bar} {rest}"


def _word(answers: bool) -> str:
    return "answers" if answers else "does not answer"


@app.command()
def bundle(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write, a ZIP file.")],
    root: RootOption = Path("/"),
    config: ConfigOption = None,
    log: Annotated[
        list[Path] | None, typer.Option("--log", metavar="FILE", help="A log to put in; may be repeated.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Write a support archive: configuration, state, checks, refusals, certificates, logs; without any secret."""
    import asyncio

    from edgetrust import __version__
    from edgetrust.cli.edge_check import as_json
    from edgetrust.edge.bundle import write_bundle
    from edgetrust.edge.check import run_checks
    from edgetrust.edge.files import Layout
    from edgetrust.edge.status import last_refusals, read_state, services_of
    from edgetrust.errors import Error

    layout = Layout(root.absolute())
    found = config or layout.config
    checks = asyncio.run(run_checks(found, root.absolute(), SystemClock()))
    parts: dict[str, object] = {
        "version": {"edgetrust": __version__, "python": sys.version, "system": " ".join(os.uname())},
        "checks": {one.check: as_json(one) for one in checks},
        "services": services_of(layout),
    }
    for name, looked in (
        ("status", lambda: read_state(layout.status)),
        ("refusals", lambda: last_refusals(layout.database, REFUSALS_KEPT)),
    ):
        try:
            parts[name] = looked()
        except Error as problem:
            parts[name] = {"missing": problem.message}
    members = write_bundle(output, layout, found, parts, log or ())
    if json:
        print_json({"file": str(output), "members": members})
    else:
        for member in members:
            print_line(member)
        say(f"{output}: look through it before you pass it on")


def _scope(scope: dict[str, Any]) -> str:
    """The copy of the registry: how much, how old, and until when it may decide without the hub."""
    text = f"{scope['identities']} identities, "
    if not scope["as_of"]:
        return text + "as of never"
    age = SystemClock().now() - datetime.fromisoformat(scope["as_of"])
    text += f"as of {scope['as_of']}, {duration(age)} old"
    until = scope.get("trusted_until")
    return text + (f", may decide until {until}" if until else "")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
