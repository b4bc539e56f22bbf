"""A relay on loopback between a client and a server: it keeps what went through, and can be cut.

Nothing is decrypted: what it keeps are the TLS records as they stood on the wire.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CHANGE_CIPHER, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
_BLOCK = 65536


@dataclass(frozen=True)
class Record:
    """One TLS record. `sender` is "client" or "server", `kind` one of the constants above."""

    sender: str
    kind: int
    body: bytes


@dataclass
class Talk:
    """One connection: the blocks of both sides in the order in which they came."""

    blocks: list[tuple[str, bytes]] = field(default_factory=list)

    def sent(self, sender: str) -> bytes:
        return b"".join(block for who, block in self.blocks if who == sender)

    def records(self) -> list[Record]:
        """The complete records of both sides, in the order in which they ended."""
        rest = {"client": b"", "server": b""}
        found: list[Record] = []
        for sender, block in self.blocks:
            data = rest[sender] + block
            while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[3:5], "big")):
                found.append(Record(sender, data[0], data[5:end]))
                data = data[end:]
            rest[sender] = data
        return found

    def kinds(self, sender: str) -> list[int]:
        return [record.kind for record in self.records() if record.sender == sender]


class Relay:
    """Carries connections from `port` to `target`, a port of this machine; refuses them while it is cut."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.talks: list[Talk] = []
        self._cut = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, name="relay")]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close everything and wait for the threads."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def cut(self) -> None:
        """The network is gone: what is open ends, and nothing new gets through."""
        with self._lock:
            self._cut = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """The network is back."""
        self._cut = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            talk = Talk()
            self.talks.append(talk)
            self._carry(talk, client, server)

    def _carry(self, talk: Talk, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._open |= {client, server}
        both = threading.Barrier(2, lambda: self._forget(client, server))
        for sender, source, sink in (("client", client, server), ("server", server, client)):
            thread = threading.Thread(target=self._pump, args=(talk, sender, source, sink, both), name="relay")
            self._threads.append(thread)
            thread.start()

    def _pump(
        self, talk: Talk, sender: str, source: socket.socket, sink: socket.socket, both: threading.Barrier
    ) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                talk.blocks.append((sender, block))
                sink.sendall(block)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        both.wait()

    def _forget(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()
