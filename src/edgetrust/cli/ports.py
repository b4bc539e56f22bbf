"""Ports to serve on: instead of those in a file, and which one HTTPS is on where nobody has said: 443, since some
clients know no other.
"""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from edgetrust.cli.output import say

MqttPort = Annotated[
    int | None, typer.Option("--mqtt-port", min=0, max=65535, help="Instead of the file's; 0: any free one.")
]
HttpsPort = Annotated[
    int | None, typer.Option("--https-port", min=0, max=65535, help="Instead of the file's; 0: any free one.")
]
HTTPS, HTTPS_ELSEWHERE = 443, 8443


def https_port(asked: int | None, bind: str) -> int:
    """443 where this process may bind it, else 8443, and says so."""
    if asked is not None:
        return asked
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, HTTPS))
        except OSError as problem:
            say(f"port {HTTPS} cannot be used ({problem.strerror}): HTTPS is on {HTTPS_ELSEWHERE}")
            return HTTPS_ELSEWHERE
    return HTTPS
