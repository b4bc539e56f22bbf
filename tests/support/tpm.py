"""A software TPM (swtpm), asked through tpm2-tools, which share no code with us. Missing programs fail a test."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from edgetrust.limits import TPM_KEY_BYTES


class Tpm:
    """One TPM of its own, on Unix sockets in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "tpm.sock"

    def __enter__(self) -> Self:
        state = self.folder / "state"
        state.mkdir(parents=True)
        self._running = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"),
                *("--server", f"type=unixio,path={self.socket}"),
                *("--ctrl", f"type=unixio,path={self.socket}.ctrl"),
            ],
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not Path(f"{self.socket}.ctrl").exists():
            assert time.monotonic() < deadline, "swtpm does not start"
            time.sleep(0.02)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._running.terminate()
        self._running.wait(60)

    def tool(self, name: str, *arguments: str) -> bytes:
        """Run a program of tpm2-tools in the folder."""
        done = subprocess.run(
            [f"tpm2_{name}", *arguments],
            cwd=self.folder,
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.socket}"},
        )
        assert done.returncode == 0, (name, done.stderr.decode())
        return done.stdout

    def keys(self) -> tuple[bytes, bytes]:
        """Make the endorsement key and the storage root key; their public areas."""
        self.tool("createek", "-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss")
        self.tool("createprimary", "-C", "o", "-G", "rsa2048", "-g", "sha256", "-c", "srk.ctx")
        self.tool("readpublic", "-c", "srk.ctx", "-o", "srk.pub", "-f", "tss")
        self.tool("flushcontext", "-t")
        return (self.folder / "ek.pub").read_bytes(), (self.folder / "srk.pub").read_bytes()

    def take(self, wrapped: bytes) -> None:
        """Activate the credential in `wrapped` and import the key that it unlocks, as a device's client does."""
        blob, secret, duplicate, seed, public, rest = _parts(wrapped)
        assert (seed, rest) == (b"", b"")
        head = struct.pack(">II", 0xBADCC0DE, 1)
        (self.folder / "credential").write_bytes(head + _sized(blob) + _sized(secret))
        self.tool("startauthsession", "--policy-session", "-S", "session.ctx")
        self.tool("policysecret", "-S", "session.ctx", "-c", "e")
        self.tool(
            *("activatecredential", "-c", "srk.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "inner"),
            *("-P", "session:session.ctx"),
        )
        self.tool("flushcontext", "session.ctx")
        (self.folder / "key.pub").write_bytes(_sized(public))
        (self.folder / "key.dup").write_bytes(_sized(duplicate))
        (self.folder / "seed").write_bytes(_sized(b""))
        self.tool(
            *("import", "-C", "srk.ctx", "-u", "key.pub", "-i", "key.dup", "-r", "key.priv"),
            *("-k", "inner", "-s", "seed"),
        )
        self.tool("flushcontext", "-t")
        self.tool("load", "-C", "srk.ctx", "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
        self.tool("flushcontext", "-t")

    def hmac(self, text: bytes) -> bytes:
        """Sign with the key that was taken last; it never leaves the TPM."""
        (self.folder / "text").write_bytes(text)
        signature = self.tool("hmac", "-c", "key.ctx", "-g", "sha256", "--hex", "text")
        self.tool("flushcontext", "-t")
        return bytes.fromhex(signature.decode().strip())


def _parts(wrapped: bytes) -> list[bytes]:
    parts = []
    while wrapped:
        (size,) = struct.unpack(">H", wrapped[:2])
        assert size <= TPM_KEY_BYTES
        parts.append(wrapped[2 : 2 + size])
        wrapped = wrapped[2 + size :]
    return parts


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
