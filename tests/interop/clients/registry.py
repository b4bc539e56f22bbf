"""The managers of the unmodified azure-iot-hub SDK. Runs in .venv-azure; the connection string is its argument. Methods
are those of the registry manager; with `configurations.` or `jobs.` before them, those of the other two.

Every line of standard input is a call, {"id": N, "do": METHOD, "arguments": [...]}; its answer is {"id": N, "ok":
VALUE} with models as the SDK writes them, or {"id": N, "error": {...}} with the SDK's own error.
"""

import json
import sys

from azure.iot.hub import IoTHubConfigurationManager, IoTHubJobManager, IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Configuration

MANAGERS = {"": IoTHubRegistryManager, "configurations": IoTHubConfigurationManager, "jobs": IoTHubJobManager}


def written(value):
    if isinstance(value, list):
        return [written(each) for each in value]
    if hasattr(value, "continuation_token"):  # a page of a query
        return {"items": written(value.items), "continuation": value.continuation_token}
    return value.as_dict() if hasattr(value, "as_dict") else value


def meant(method, arguments):
    """The arguments; where the SDK wants a model of its own, it gets one."""
    if method.startswith("invoke_"):
        return [*arguments[:-1], CloudToDeviceMethod(**arguments[-1])]
    if method in ("create_configuration", "update_configuration"):
        return [Configuration.from_dict(arguments[0]), *arguments[1:]]
    return arguments


def described(error):
    answer = getattr(error, "response", None)
    causes = [type(error).__name__]
    status = None if answer is None else answer.status_code
    return {"module": type(error).__module__, "causes": causes, "text": str(error), "status": status}


def main():
    managers = {name: kind.from_connection_string(sys.argv[1]) for name, kind in MANAGERS.items()}
    for line in sys.stdin:
        call = json.loads(line)
        try:
            name, _, method = call["do"].rpartition(".")
            arguments = meant(method, call["arguments"])
            answer = {"ok": written(getattr(managers[name], method)(*arguments, **call.get("options", {})))}
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is told
            answer = {"error": described(error)}
        sys.stdout.write(json.dumps({"id": call["id"], **answer}) + "\n")
        sys.stdout.flush()


main()
