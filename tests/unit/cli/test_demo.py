"""The story's own machinery: processes end, folders are safe, a line that does not hold fails the command."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.demo import command, processes, story
from edgetrust.cli.demo.processes import Finished, NotShownError, Process, Processes, first_line, run, wait_for
from edgetrust.cli.demo.scene import forged_key, is_free
from edgetrust.cli.demo.story import STEPS, Line, Step
from edgetrust.cli.demo_pki import DemoPki
from edgetrust.errors import UnavailableError

Call = Callable[..., Any]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Process]:
    """Start a Python program as a process of a story."""
    monkeypatch.setattr(processes, "EDGETRUST", (sys.executable, "-c"))
    held = Processes(tmp_path / "logs")
    return lambda code, **options: held.start("test", code, **options)


# Processes ----------------------------------------------------------------------------------------------------------


def test_a_process_is_heard_and_ended(started: Callable[..., Process]) -> None:
    process = started("import sys, time; print('{\"a\": 1}'); print('log', file=sys.stderr); time.sleep(60)")
    assert first_line(process) == {"a": 1}
    assert process.alive
    process.stop()
    assert process.popen.returncode == -signal.SIGTERM
    assert process.messages() == "log\n"


def test_a_process_that_does_not_end_is_killed(
    started: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    process = started(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{\"a\": 1}'); time.sleep(60)"
    )
    first_line(process)
    process.stop()
    assert process.popen.returncode == -signal.SIGKILL


def test_a_process_that_ends_too_early_says_its_last_words(started: Callable[..., Process]) -> None:
    process = started("import sys; sys.exit('no such port')")
    with pytest.raises(UnavailableError, match="no such port"):
        first_line(process)


def test_what_does_not_come_is_late() -> None:
    with pytest.raises(UnavailableError, match="no answer within"):
        wait_for("answer", lambda: None, 0.01)


def test_talking_to_a_process(started: Callable[..., Process]) -> None:
    process = started("import sys\nfor line in sys.stdin: print('{\"got\": \"' + line.strip() + '\"}')", talks=True)
    process.say("hello")
    assert process.finish() == 0
    assert process.lines() == [{"got": "hello"}]


def test_log_entries_are_found_by_event(started: Callable[..., Process]) -> None:
    process = started('import sys; print(\'{"event": "a", "n": 1}\\nnoise\\n{"event": "a"}\', file=sys.stderr)')
    process.popen.wait()
    assert len(process.events("a")) == 2
    assert process.events("a", since=1) == [{"event": "a"}]


def test_all_processes_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "EDGETRUST", (sys.executable, "-c"))
    held = Processes(tmp_path)
    for _ in range(2):
        held.start("same", "import time; time.sleep(60)")
    assert len(held.running) == 2
    assert len({process.log for process in held.started}) == 2
    held.stop_all()
    assert held.running == ()


def test_a_program_run_to_its_end() -> None:
    done = run("sh", "-c", "cat; echo error: it broke >&2; exit 3", text="in")
    assert (done.code, done.out, done.error) == (3, "in", "it broke")
    with pytest.raises(NotShownError, match="it broke"):
        done.json()
    assert Finished(3, "", "").error == "exit code 3"


def test_the_environment_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGETRUST_DIR", "/elsewhere")
    monkeypatch.setenv("SSL_CERT_FILE", "/elsewhere")
    environment = processes.environ({"A": "b"})
    assert environment["A"] == "b"
    assert not {"EDGETRUST_DIR", "SSL_CERT_FILE"} & set(environment)


# The forged key -----------------------------------------------------------------------------------------------------


def test_a_forged_key_looks_right_and_signs_wrong(demo: DemoPki, tmp_path: Path) -> None:
    material, forged, data, signature = demo.sensor[0], tmp_path / "key", tmp_path / "data", tmp_path / "signature"
    forged.write_bytes(forged_key(material))
    data.write_text("x")

    def public(*source: str | Path) -> str:
        return run("openssl", *source, "-pubout" if source[0] == "pkey" else "-noout").out

    certified = run("openssl", "x509", "-in", material.certificate_file, "-noout", "-pubkey").out
    assert public("pkey", "-in", forged) == certified
    (tmp_path / "pub").write_text(certified)
    assert run("openssl", "dgst", "-sha256", "-sign", forged, "-out", signature, data).code == 0
    checked = run("openssl", "dgst", "-sha256", "-verify", tmp_path / "pub", "-signature", signature, data)
    assert "Verification failure" in checked.out.replace("Verification Failure", "Verification failure")


# The command --------------------------------------------------------------------------------------------------------


class Scene:
    """Stands in for the scene where no line looks at it."""

    def __init__(self, folder: Path, held: Processes, pki: DemoPki) -> None:
        self.directory, self.processes, self.pki = folder, held, pki
        self.hub_ready: dict[str, Any] = {"hub": {"mqtt_port": 1, "https_port": 2}, "trust_bundle": "/r"}
        self.gateway_port, self.gateway_root, self.hub_directory = 8883, folder / "gateway", folder / "hub"
        self.hub_root = Path("/r")
        self.gateway: Process | None = None
        self.told = lambda _text: None


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch, demo: DemoPki, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Have the command tell other lines, about nothing. TMPDIR is the test's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    stories: list[Processes] = []

    def set_scene(folder: Path, _told: object, held: Processes) -> Any:
        monkeypatch.setattr(processes, "EDGETRUST", (sys.executable, "-c"))
        process = held.start("sleeper", "import time; time.sleep(60)")
        scene = Scene(folder, held, demo)
        scene.gateway = process
        stories.append(held)
        return scene

    monkeypatch.setattr(command, "set_scene", set_scene)
    monkeypatch.setattr(command, "begin", lambda _scene, port: None)

    def with_lines(*chapters: Step) -> None:
        monkeypatch.setattr(command, "tell", lambda scene: story.tell(scene, chapters))

    yield with_lines
    for held in stories:
        held.stop_all()


def good(_scene: object) -> str:
    return "seen with own eyes"


def bad(_scene: object) -> str:
    raise NotShownError("it was otherwise", reason="demo-test")


def test_when_every_line_holds(edgetrust: Call, staged: Callable[..., None], tmp_path: Path) -> None:
    staged(Step("one", "This is so", good), Step("two", "That too", good))
    shown = edgetrust("demo")
    assert shown.code == 0
    assert "holds   This is so\n        seen with own eyes\n" in shown.out
    assert shown.out.endswith("2 of 2 lines hold\n")
    assert "... showing one" not in shown.out
    assert list((tmp_path / "tmp").iterdir()) == []


def test_when_a_line_does_not_hold(edgetrust: Call, staged: Callable[..., None], tmp_path: Path) -> None:
    staged(Step("one", "This is so", bad), Step("two", "That too", good))
    shown = edgetrust("demo", "--json")
    assert shown.code == 1
    assert shown.json()["holds"] is False
    assert [line["holds"] for line in shown.json()["lines"]] == [False, True]
    assert "does not hold: one" in shown.err
    (folder,) = (tmp_path / "tmp").iterdir()
    assert str(folder / "logs") in shown.err
    assert shown.json()["running"] == {}


def test_keep_leaves_it_running_and_says_how_to_go_on(
    edgetrust: Call, staged: Callable[..., None], tmp_path: Path
) -> None:
    staged(Step("one", "This is so", good))
    shown = edgetrust("demo", "--keep", "--dir", tmp_path / "kept")
    assert "IoTHubDeviceClient.create_from_x509_certificate" in shown.out
    assert "can be used as it is" in shown.out
    os.kill(int(shown.out.strip().rpartition("kill ")[2]), 0)


def test_another_port_is_remarked(demo: DemoPki, tmp_path: Path, started: Callable[..., Process]) -> None:
    scene = Scene(tmp_path, Processes(tmp_path), demo)
    scene.gateway_port, scene.gateway = 1234, started("import time; time.sleep(60)")
    text = command.how_to_go_on(scene)  # type: ignore[arg-type]
    assert "--mqtt-port 8883" in text
    assert f"kill {scene.gateway.popen.pid}" in text
    scene.gateway.stop()


def test_only_a_folder_of_an_earlier_story_is_emptied(
    edgetrust: Call, staged: Callable[..., None], tmp_path: Path
) -> None:
    staged(Step("one", "This is so", good))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    shown = edgetrust("demo", "--dir", mine)
    assert (shown.code, "is not empty" in shown.err) == (2, True)
    assert (mine / "thesis.txt").exists()
    again = tmp_path / "story"
    assert [edgetrust("demo", "--dir", again).code for _ in range(2)] == [0, 0]
    assert again.exists()


def test_without_openssl_it_says_so(edgetrust: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    shown = edgetrust("demo")
    assert (shown.code, "openssl is not installed" in shown.err) == (3, True)


def test_an_interrupt_leaves_nothing(
    edgetrust: Call, staged: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(_scene: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)
        return ""

    staged(Step("one", "This is so", interrupted))
    assert edgetrust("demo").code == 130
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_start_that_fails_names_the_logs(
    edgetrust: Call, staged: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged()

    def begin(_scene: object, port: int) -> None:
        raise UnavailableError(f"no hub on {port}")

    monkeypatch.setattr(command, "begin", begin)
    shown = edgetrust("demo")
    assert (shown.code, "the logs of every process are in" in shown.err) == (3, True)


def test_every_line_has_its_own_name() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
    assert len([step for step in STEPS if step.name.startswith("intruder-")]) == 5


def test_a_line_knows_its_time() -> None:
    (line,) = story.tell(Scene(Path(), Processes(Path()), None), [Step("one", "x", good)])  # type: ignore[arg-type]
    assert isinstance(line, Line)
    assert 0 <= line.seconds < 60


def test_a_port_that_somebody_has_is_not_free() -> None:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
