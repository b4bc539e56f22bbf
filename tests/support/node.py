"""Contoso's devices and services as clients of the Node SDKs, which know no proxy.

One Node process runs in a network of its own, where "localhost" has the ports 8883, 443 and one more for MQTT; they
lead to Contoso's hub outside, through its proxy, which can cut them. A fourth leads to the gateway named "localhost".
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.serialization import Encoding

from support.azure import NodeSdk
from support.processes import HTTPS, HUB, MQTT, Contoso, Device, OwnNetwork

ELSEWHERE = 18883
GATEWAY_PORT = 18884


class NodeContoso(Contoso):
    """The same hub; `with_key` and `with_certificate` give clients of Node. Options: `host` (the hub's name, maybe with
    a port), `transport` (mqtt, websocket or http), `retry`, `token` (`seconds` of its life, `margin` of its end for its
    renewal). A gateway is named with its port.
    """

    def __init__(self, contoso: Contoso, folder: Path) -> None:
        vars(self).update(vars(contoso))
        self.folder = folder
        self._network = OwnNetwork()

    def __enter__(self) -> Self:
        self._network.__enter__()
        ports = {MQTT: (HUB, MQTT), HTTPS: (HUB, HTTPS), ELSEWHERE: (HUB, MQTT), GATEWAY_PORT: ("localhost", MQTT)}
        listening = self._network.listen(*ports)
        for number, port in enumerate(ports):
            for one in listening[2 * number : 2 * number + 2]:
                self.proxy.stand_for(ports[port], one)
        trust = Path(self.world.hub.ready["trust_bundle"])
        self.sdk = NodeSdk(log=self.folder / "node.log", trust=trust, prefix=self._network.prefix)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.sdk.close()
        self._network.__exit__(kind, error, tb)

    def _create_client(self, made: Device, module: str | None, gateway: str, options: dict[str, Any]) -> None:
        host = options.pop("host", HUB if gateway else "localhost")
        shown = options.pop("x509", None)
        if shown is None:
            words = options.pop("connection_string").replace(f"HostName={HUB}", f"HostName={host}", 1)
        else:
            words = f"HostName={host};DeviceId={shown['device']};{f'ModuleId={module};' if module else ''}x509=true"
            options["x509"] = {one: Path(shown[one]).read_text() for one in ("certificate", "key")}
        if gateway:
            options["ca"] = self.pki.root.certificate.public_bytes(Encoding.PEM).decode()
        self.sdk.do("create", client=made.name, connection_string=words, module=module, **options)

    # The service side -----------------------------------------------------------------------------------------------

    def ask(self, on: str, method: str, *arguments: Any, policy: str | None = None) -> Any:
        """Call a method of azure-iothub's registry, service or jobs client; its answer's body."""
        words = {"on": on, "method": method, "arguments": arguments}
        return self.sdk.do("call", connection_string=policy or self.owner, **words)

    def query(self, text: str, page_size: int | None = None) -> list[list[dict[str, Any]]]:
        """All pages of a query of azure-iothub's registry."""
        return list(self.sdk.do("query", connection_string=self.owner, text=text, page_size=page_size))

    @property
    def owner(self) -> str:
        """The owner's connection string with the hub's name as it is in the network of the Node process."""
        words = str(self.world.hub.ready["service_connection_string"]).split(";")
        return ";".join(["HostName=localhost", *words[1:]])
