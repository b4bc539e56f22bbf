"""Devices, each a client of the unmodified azure-iot-device SDK. Runs in .venv-azure.

Every line of standard input is a command, {"id": N, "do": NAME, "client": NAME, ...}; commands of one line after the
other run at the same time. Every line of standard output is an answer, {"id": N, "ok": VALUE} or {"id": N, "error":
{...}}, or news of a client, {"client": NAME, "event": KIND, ...}.
"""

import json
import logging
import os
import sys
import threading
import time
import uuid

from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse, ProxyOptions
from azure.iot.device.exceptions import ConnectionDroppedError, ConnectionFailedError, NoConnectionError

PROPERTIES = (
    "message_id",
    "correlation_id",
    "user_id",
    "content_encoding",
    "content_type",
    "output_name",
    "expiry_time_utc",
)
clients = {}
printing = threading.Lock()


def tell(**line):
    with printing:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def news(name, event, **more):
    tell(client=name, event=event, **more)


def create(name, module=None, proxy=None, connection_string=None, x509=None, edge=None, **options):
    """A client, not connected yet. `x509`: certificate, key, hostname, device. `edge`: the file that verifies
    the gateway, for a module that finds out from its environment.
    """
    if proxy is not None:
        options["proxy_options"] = ProxyOptions(proxy["kind"], "127.0.0.1", proxy["port"])
    kind = IoTHubDeviceClient if module is None else IoTHubModuleClient
    if edge is not None:
        os.environ.update({"EdgeHubConnectionString": connection_string, "EdgeModuleCACertificateFile": edge})
        del options["server_verification_cert"]
        client = kind.create_from_edge_environment(**options)
    elif connection_string is not None:
        client = kind.create_from_connection_string(connection_string, **options)
    else:
        names = [x509["hostname"], x509["device"], *([] if module is None else [module])]
        client = kind.create_from_x509_certificate(X509(x509["certificate"], x509["key"]), *names, **options)
    client.on_connection_state_change = lambda: news(name, "connected" if client.connected else "disconnected")
    client.on_background_exception = lambda error: news(name, "background", error=described(error))
    clients[name] = client


def connect(name):
    clients[name].connect()


def listen(name):
    """Receive cloud-to-device messages from now on."""

    def received(message):
        told = {key: value for key in PROPERTIES if (value := getattr(message, key)) is not None}
        body = message.data.decode()
        entry = {} if message.input_name is None else {"input": message.input_name}
        news(name, "message", body=body, properties=dict(message.custom_properties), system=told, **entry)

    clients[name].on_message_received = received


def twin(name):
    """The twin, as the SDK gives it."""
    return clients[name].get_twin()


def report(name, patch):
    """Patch the reported properties; returns when the hub has answered."""
    clients[name].patch_twin_reported_properties(patch)


def watch(name):
    """Tell of changes of the desired properties from now on."""
    clients[name].on_twin_desired_properties_patch_received = lambda patch: news(name, "desired", patch=patch)


def answer(name, status=200, pause=0.0):
    """Answer direct methods from now on: with what was asked, after a pause."""

    def called(request):
        news(name, "method", method=request.name, payload=request.payload)
        time.sleep(pause)
        payload = {"method": request.name, "payload": request.payload}
        clients[name].send_method_response(MethodResponse(request.request_id, status, payload))

    clients[name].on_method_request_received = called


def invoke(name, method, payload, device, module=None, timeout=10):
    """Call a method of a device, or of a module, as a module does; its answer."""
    called = {"methodName": method, "payload": payload, "responseTimeoutInSeconds": timeout}
    return clients[name].invoke_method(called, device, *([] if module is None else [module]))


def send_output(name, output, body, properties=None):
    """Send one message through an output."""
    message = Message(body)
    message.custom_properties.update(properties or {})
    clients[name].send_message_to_output(message, output)


def send(name, body, properties=None, system=None):
    """Send one message; returns when the hub has acknowledged it."""
    message = Message(body)
    message.custom_properties.update(properties or {})
    for key, value in (system or {}).items():
        assert key in PROPERTIES, key
        setattr(message, key, value)
    clients[name].send_message(message)


def stream(name, count, pause=0.0, window=1, ids=False):
    """Send `count` messages, `window` at a time, numbered from 0; tell of each acknowledged one. What could not be sent
    for want of a connection is sent again, as applications do; that is told too. With `ids` each has a message id, as
    Microsoft's samples have it.
    """
    turn = threading.Semaphore(window)
    senders = []

    def one(number):
        message = Message(str(number), message_id=str(uuid.uuid4()) if ids else None)
        while True:
            try:
                clients[name].send_message(message)
                break
            except (ConnectionFailedError, ConnectionDroppedError, NoConnectionError):
                news(name, "again", number=number)
                time.sleep(0.2)
        news(name, "sent", number=number)
        turn.release()

    for number in range(count):
        turn.acquire()
        sender = threading.Thread(target=one, args=(number,), daemon=True)
        sender.start()
        senders.append(sender)
        time.sleep(pause)
    for sender in senders:
        sender.join()


def upload_address(name, blob):
    """Where the hub wants a file."""
    return clients[name].get_storage_info_for_blob(blob)


def upload_done(name, correlation, success):
    clients[name].notify_blob_upload_status(correlation, success, 200 if success else 500, "told by the client")


def disconnect(name):
    clients[name].disconnect()


def shutdown(name):
    clients.pop(name).shutdown()


def described(error):
    causes = []
    cause = error
    while cause is not None:
        causes.append(type(cause).__name__)
        cause = cause.__cause__
    return {"module": type(error).__module__, "causes": causes, "text": str(error)}


class Subscribing(logging.Handler):
    """Tells of every SUBSCRIBE that the SDK's MQTT client sends."""

    def emit(self, record):
        if record.getMessage().startswith("Sending SUBSCRIBE"):
            news("paho", "subscribe")


OFFERED = (
    *(create, connect, listen, twin, report, watch, answer, send, stream, disconnect, shutdown),
    *(upload_address, upload_done, send_output, invoke),
)
COMMANDS = {each.__name__: each for each in OFFERED}


def run(number, do, client, arguments):
    try:
        tell(id=number, ok=COMMANDS[do](client, **arguments))
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is told
        tell(id=number, error=described(error))


logging.getLogger("paho").addHandler(Subscribing())
logging.getLogger("paho").setLevel(logging.DEBUG)
for line in sys.stdin:
    command = json.loads(line)
    arguments = {key: value for key, value in command.items() if key not in ("id", "do", "client")}
    work = (command["id"], command["do"], command["client"], arguments)
    threading.Thread(target=run, args=work, daemon=True).start()
for each in list(clients.values()):
    each.shutdown()
