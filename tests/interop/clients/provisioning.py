"""A device that registers, a client of the unmodified azure-iot-device SDK. Runs in .venv-azure.

Every line of standard input is a command, {"id": N, "do": "register", ...}; commands run at the same time. Every line
of standard output is an answer, {"id": N, "ok": VALUE} or {"id": N, "error": {...}}.
"""

import json
import sys
import threading

from azure.iot.device import X509, ProvisioningDeviceClient, ProxyOptions

printing = threading.Lock()


def tell(**line):
    with printing:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def register(host, scope, registration, proxy, key=None, x509=None, payload=None, **options):
    """Register once; what the service said in the end."""
    options["proxy_options"] = ProxyOptions(proxy["kind"], "127.0.0.1", proxy["port"])
    if key is not None:
        client = ProvisioningDeviceClient.create_from_symmetric_key(host, registration, scope, key, **options)
    else:
        certificate = X509(x509["certificate"], x509["key"])
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            host, registration, scope, certificate, **options
        )
    if payload is not None:
        client.provisioning_payload = payload
    result = client.register()
    state = result.registration_state
    return {
        "status": result.status,
        "hub": state.assigned_hub if state else None,
        "device": state.device_id if state else None,
        "substatus": state.sub_status if state else None,
        "payload": state.response_payload if state else None,
    }


def described(error):
    causes, texts = [], []
    cause = error
    while cause is not None:
        causes.append(type(cause).__name__)
        texts.append(str(cause))
        cause = cause.__cause__
    return {"module": type(error).__module__, "causes": causes, "text": "; ".join(texts)}


def run(command):
    number = command.pop("id")
    command.pop("do")
    try:
        tell(id=number, ok=register(**command))
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is told
        tell(id=number, error=described(error))


for line in sys.stdin:
    threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
