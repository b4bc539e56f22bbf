"""PKCS#11 tokens of two makes: SoftHSM, and a TPM (swtpm) behind tpm2-pkcs11 and its resource manager.

Both are looked at with pkcs11-tool of OpenSC, which shares no code with us. Missing programs fail a test.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.tpm import Tpm

PIN = "1234"
_SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


@dataclass(frozen=True)
class MadeToken:
    """A token with the label `gateway`; `environment` is what its users need."""

    module: Path
    environment: dict[str, str]

    @property
    def configuration(self) -> str:
        """`[aziot_keys]` of a gateway that uses it."""
        uri = f"pkcs11:token=gateway?pin-value={PIN}"
        return f'[aziot_keys]\npkcs11_lib_path = "{self.module}"\npkcs11_base_slot = "{uri}"\n'

    def objects(self) -> str:
        """What is in it, as pkcs11-tool prints it."""
        login = ["--token-label", "gateway", "--login", "--pin", PIN]
        done = subprocess.run(
            ["pkcs11-tool", "--module", str(self.module), *login, "--list-objects"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, **self.environment},
        )
        return done.stdout


@contextmanager
def softhsm(folder: Path) -> Iterator[MadeToken]:
    """A new token of SoftHSM."""
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    environment = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
    _run(
        ["softhsm2-util", "--init-token", "--free", "--label", "gateway", "--pin", PIN, "--so-pin", "5678"], environment
    )
    yield MadeToken(_SOFTHSM, environment)


@contextmanager
def tpm2(folder: Path) -> Iterator[MadeToken]:
    """A new token of a software TPM: swtpm, tpm2-abrmd on a bus of its own, tpm2-pkcs11."""
    (module,) = Path("/usr/lib").glob("*/libtpm2_pkcs11.so.1")
    tcti = "tabrmd:bus_type=session"
    environment = {
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder / 'bus'}",
        "TPM2_PKCS11_TCTI": tcti,
        "TPM2TOOLS_TCTI": tcti,
        "TPM2_PKCS11_STORE": str(folder / "store"),
    }
    (folder / "store").mkdir()
    with ExitStack() as stack:
        tpm = stack.enter_context(Tpm(folder / "tpm"))
        stack.enter_context(_served(["dbus-daemon", "--session", "--nofork", f"--address=unix:path={folder / 'bus'}"]))
        _until((folder / "bus").exists)
        abrmd = ["tpm2-abrmd", "--session", "--allow-root", f"--tcti=swtpm:path={tpm.socket}"]
        stack.enter_context(_served(abrmd, environment))
        _until(lambda: _works(["tpm2_getrandom", "1"], environment))
        ptool, store = "tpm2_ptool", f"--path={folder / 'store'}"
        _run([ptool, "init", store], environment)
        _run([ptool, "addtoken", "--pid=1", "--label=gateway", "--sopin=5678", f"--userpin={PIN}", store], environment)
        yield MadeToken(module, environment)


TOKENS = {"softhsm": softhsm, "tpm2-pkcs11": tpm2}


@contextmanager
def _served(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    running = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {}), "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(60)


def _until(true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "the token's service does not start"
        time.sleep(0.05)


def _works(command: list[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (command[0], done.stderr)
