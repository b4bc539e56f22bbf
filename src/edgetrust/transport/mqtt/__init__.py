"""MQTT 3.1.1 over TLS, both sides. The protocol's rules stand in `protocol.mqtt`; here are sockets and deadlines."""

from edgetrust.transport.mqtt.server import MqttHandler, MqttServerProtocol, MqttStream

__all__ = [
    "MqttHandler",
    "MqttServerProtocol",
    "MqttStream",
]
