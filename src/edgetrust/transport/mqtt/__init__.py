"""MQTT 3.1.1 over TLS, both sides. The protocol's rules stand in `protocol.mqtt`; here are sockets and deadlines."""

from edgetrust.transport.mqtt.client import ConnackError, ConnectionLostError, MqttClient, connect_mqtt
from edgetrust.transport.mqtt.server import MqttHandler, MqttServerProtocol, MqttStream

__all__ = [
    "ConnackError",
    "ConnectionLostError",
    "MqttClient",
    "MqttHandler",
    "MqttServerProtocol",
    "MqttStream",
    "connect_mqtt",
]
