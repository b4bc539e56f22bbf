"""A module of an edge gateway: a client of the unmodified azure-iot-device SDK that knows nothing but its environment.
Runs in .venv-azure, started by the gateway.

edge_module.py PROXY_PORT      says that it is there, reports what it is told to want, answers direct methods, for ever
"""

import json
import sys
import threading

from azure.iot.device import IoTHubModuleClient, Message, MethodResponse, ProxyOptions

client = IoTHubModuleClient.create_from_edge_environment(
    proxy_options=ProxyOptions("SOCKS5", "127.0.0.1", int(sys.argv[1]))
)


def desired(patch):
    client.patch_twin_reported_properties({"wanted": patch.get("rate")})


def called(request):
    answer = {"method": request.name, "payload": request.payload}
    client.send_method_response(MethodResponse.create_from_method_request(request, 207, answer))


client.on_twin_desired_properties_patch_received = desired
client.on_method_request_received = called
client.connect()
client.patch_twin_reported_properties({"started": client.get_twin()["desired"]["$version"]})
message = Message(json.dumps({"temperature": 21}))
message.custom_properties["from"] = "module"
client.send_message_to_output(message, "readings")
threading.Event().wait()
