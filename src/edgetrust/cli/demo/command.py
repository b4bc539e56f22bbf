"""The command: a folder, the processes, the lines as they are told, the table at the end, and nothing left behind."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from edgetrust.cli.demo.processes import Processes
from edgetrust.cli.demo.scene import HUB_NAME, MQTT_PORT, Scene, begin, is_free, set_scene
from edgetrust.cli.demo.story import Line, tell
from edgetrust.cli.output import Json, print_block, print_json, print_line, print_table, say
from edgetrust.errors import Error, UnavailableError, UsageError

app = typer.Typer()

_MARK = ".edgetrust-demo"


@app.command(help="Tell the article's story on loopback, as real processes, with evidence for every line.")
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="D", help="Keep everything there. Default: a folder that is removed."),
    ] = None,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, and say how to use it.")] = False,
    json: Json = False,
) -> None:
    _needs_openssl()
    temporary = directory is None
    folder = Path(tempfile.mkdtemp(prefix="edgetrust-demo-")) if directory is None else _fresh(directory)
    processes = Processes(folder / "logs")
    lines: list[Line] = []
    stays = False
    try:
        with _ending_in_order():
            scene = set_scene(folder, _progress, processes)
            begin(scene, port=MQTT_PORT if keep and is_free(MQTT_PORT) else 0)
            for line in tell(scene):
                lines.append(line)
                if not json:
                    _print(line)
        stays = keep
        removable = temporary and not keep and all(line.holds for line in lines)
    except Error as problem:
        removable, problem.fix = False, problem.fix or f"the logs of every process are in {folder / 'logs'}"
        raise
    except KeyboardInterrupt:
        removable = temporary
        raise
    finally:
        if not stays:
            processes.stop_all()
        if removable:
            shutil.rmtree(folder)
    _conclude(scene, lines, keep=keep, json=json, kept=None if removable else folder)


def _conclude(scene: Scene, lines: list[Line], *, keep: bool, json: bool, kept: Path | None) -> None:
    """The table, the verdict, and how to go on."""
    failed = [line.name for line in lines if not line.holds]
    if json:
        pids = {process.name: process.popen.pid for process in scene.processes.running}
        print_json(
            {
                "holds": not failed,
                "lines": [asdict(line) for line in lines],
                "dir": None if kept is None else str(kept),
                "running": pids,
            }
        )
    else:
        print_line()
        print_table(
            ("", "LINE", "STATEMENT", "SECONDS"),
            [("holds" if one.holds else "FAILED", one.name, one.statement, f"{one.seconds:.1f}") for one in lines],
        )
        print_line(f"{len(lines) - len(failed)} of {len(lines)} lines hold")
    if keep and not json:
        print_block(how_to_go_on(scene))
    if failed:
        raise Error(
            f"does not hold: {', '.join(failed)}",
            reason="demo-failed",
            fix=f"the logs of every process are in {kept / 'logs'}" if kept is not None else "",
        )


def how_to_go_on(scene: Scene) -> str:
    """For --keep: what runs, how to look at it, how an SDK connects, how to end it."""
    hub, gateway = scene.hub_ready["hub"], scene.gateway_port
    by_ca = scene.pki.ca_sensor
    pids = " ".join(str(process.popen.pid) for process in scene.processes.running)
    root = scene.pki.root.certificate_file
    return f"""
Running: the hub {HUB_NAME} (MQTT {hub["mqtt_port"]}, HTTPS {hub["https_port"]}) and the gateway edgegateway.local
(MQTT {gateway}), everything in {scene.directory}

  export EDGETRUST_DIR={scene.hub_directory}
  edgetrust device list
  edgetrust device enable TempSensor
  edgetrust monitor --from start
  edgetrust edge status --root {scene.gateway_root}
  edgetrust device send HumiditySensor --gateway edgegateway.local:{gateway} --address 127.0.0.1 \\
    --trust {root} \\
    --cert {by_ca.certificate_file} --cert-key {by_ca.key_file}

An SDK finds the gateway with `127.0.0.1 edgegateway.local` in /etc/hosts. {_port_remark(scene)}

  from azure.iot.device import IoTHubDeviceClient, X509
  client = IoTHubDeviceClient.create_from_x509_certificate(
      X509("{by_ca.certificate_file}", "{by_ca.key_file}"),
      hostname="{HUB_NAME}", device_id="HumiditySensor", gateway_hostname="edgegateway.local",
      server_verification_cert=open("{root}").read())

End everything: kill {pids}"""


def _port_remark(scene: Scene) -> str:
    """The Python SDK cannot be told another port than 8883."""
    if scene.gateway_port == MQTT_PORT:
        return "The Python SDK, which knows no other port than 8883, can be used as it is:"
    assert scene.gateway is not None
    return f"""Port 8883 was taken, and the Python SDK
knows no other. Free it, then serve the gateway there:

  kill {scene.gateway.popen.pid}
  SSL_CERT_FILE={scene.hub_root} edgetrust edge serve -c {scene.directory / "config.toml"} \\
    --root {scene.gateway_root} --mqtt-port 8883

and connect:"""


def _print(line: Line) -> None:
    print_line(f"{'holds ' if line.holds else 'FAILED'}  {line.statement}")
    print_line(f"        {line.evidence}")


def _progress(text: str) -> None:
    say(f"... {text}")


def _needs_openssl() -> None:
    if shutil.which("openssl") is None:
        raise UnavailableError(
            "openssl is not installed; the story is told with it",
            reason="openssl-missing",
            fix="apt-get install openssl",
        )


def _fresh(directory: Path) -> Path:
    """An empty folder of the story. Only one that a story made before is emptied. Raises UsageError."""
    folder = directory.absolute()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise UsageError(f"{directory} is not empty", reason="demo-directory", fix="name a new directory")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    return folder


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM and a closed terminal end the story like Ctrl-C: its processes are stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
