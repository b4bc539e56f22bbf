"""A registry manager of the unmodified azure-iot-hub SDK. Runs in .venv-azure; the connection string is its argument.

Every line of standard input is a call, {"id": N, "do": METHOD, "arguments": [...]}; its answer is {"id": N, "ok":
VALUE} with models as the SDK writes them, or {"id": N, "error": {...}} with the SDK's own error.
"""

import json
import sys

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod


def written(value):
    if isinstance(value, list):
        return [written(each) for each in value]
    return value if value is None else value.as_dict()


def meant(method, arguments):
    """The arguments, the last one of a method call as the SDK wants it."""
    if method.startswith("invoke_"):
        return [*arguments[:-1], CloudToDeviceMethod(**arguments[-1])]
    return arguments


def described(error):
    answer = getattr(error, "response", None)
    causes = [type(error).__name__]
    status = None if answer is None else answer.status_code
    return {"module": type(error).__module__, "causes": causes, "text": str(error), "status": status}


def main():
    manager = IoTHubRegistryManager.from_connection_string(sys.argv[1])
    for line in sys.stdin:
        call = json.loads(line)
        try:
            arguments = meant(call["do"], call["arguments"])
            answer = {"ok": written(getattr(manager, call["do"])(*arguments, **call.get("options", {})))}
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is told
            answer = {"error": described(error)}
        sys.stdout.write(json.dumps({"id": call["id"], **answer}) + "\n")
        sys.stdout.flush()


main()
