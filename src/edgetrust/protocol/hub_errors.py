"""The hub's error names, their numbers, and the body that carries them (hub specification 12).

The HTTP status is the first three digits of the number. Of the two body shapes that the cloud has, only the one that
every SDK reads is written: `Message` holds `ErrorCode:<name>;<text>`, split by clients at the first `;` and `:`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

_STATUS_DIGITS = 1000

ERROR_NUMBERS: Mapping[str, int] = MappingProxyType(
    {
        "GenericBadRequest": 400_000,
        "InvalidProtocolVersion": 400_001,
        "InvalidOperation": 400_003,
        "ArgumentInvalid": 400_004,
        "ArgumentNull": 400_005,
        "IotHubFormatError": 400_006,
        "DeviceDefinedMultipleTimes": 400_011,
        "DeserializationError": 400_012,
        "BulkRegistryOperationFailure": 400_013,
        "InvalidFileUploadCorrelationId": 400_015,
        "ExpiredFileUploadCorrelationId": 400_016,
        "EtagDoesNotMatch": 400_023,
        "ConnectionForcefullyClosedOnNewConnection": 400_027,
        "InvalidDeviceScope": 400_028,
        "CannotRegisterModuleToModule": 400_301,
        "InvalidConfigurationTargetCondition": 400_401,
        "InvalidConfigurationContent": 400_402,
        "CannotModifyImmutableConfigurationContent": 400_403,
        "GenericUnauthorized": 401_000,
        "IotHubNotFound": 401_001,
        "IotHubUnauthorizedAccess": 401_002,
        "IotHubUnauthorized": 401_003,
        "SystemModuleModifyUnauthorizedAccess": 401_100,
        "GenericForbidden": 403_000,
        "IotHubSuspended": 403_001,
        "IotHubQuotaExceeded": 403_002,
        "DeviceMaximumQueueDepthExceeded": 403_004,
        "DeviceMaximumActiveFileUploadLimitExceeded": 403_006,
        "DeviceMaximumQueueSizeExceeded": 403_007,
        "DeviceDisabled": 403_012,
        "DeviceMaximumInflightMethodExceeded": 403_800,
        "GenericNotFound": 404_000,
        "DeviceNotFound": 404_001,
        "JobNotFound": 404_002,
        "CertificateNotFound": 404_008,
        "ModuleNotFound": 404_010,
        "DeviceNotOnline": 404_103,
        "DeviceConnectionClosedRemotely": 404_104,
        "ConfigurationNotFound": 404_301,
        "GenericMethodNotAllowed": 405_000,
        "GenericConflict": 409_000,
        "DeviceAlreadyExists": 409_001,
        "LinkCreationConflict": 409_002,
        "ModuleAlreadyExistsOnDevice": 409_301,
        "ConfigurationAlreadyExists": 409_401,
        "ApplyConfigurationAlreadyInProgressOnDevice": 409_402,
        "PreconditionFailed": 412_001,
        "DeviceMessageLockLost": 412_002,
        "MessageTooLarge": 413_001,
        "TooManyDevices": 413_002,
        "TooManyModulesOnDevice": 413_003,
        "ConfigurationCountLimitExceeded": 413_101,
        "GenericUnsupportedMediaType": 415_000,
        "ThrottlingException": 429_001,
        "ServerError": 500_001,
        "GenericTimeout": 500_008,
        "BadDeviceResponse": 502_000,
        "ServiceUnavailable": 503_001,
        "GatewayTimeout": 504_101,
    }
)


def error_status(name: str) -> int:
    """The HTTP status of the error `name`, a key of ERROR_NUMBERS."""
    return ERROR_NUMBERS[name] // _STATUS_DIGITS


def error_body(name: str, text: str, tracking: str = "") -> bytes:
    """The JSON body of the error `name`, a key of ERROR_NUMBERS.

    `text` is for people; `tracking` finds the log entry, and is empty when there is none.
    """
    number = ERROR_NUMBERS[name]
    message = f"ErrorCode:{name};{text.replace(';', ',')}"
    exception = f"Tracking ID:{tracking}-Code:{number}" if tracking else ""
    return msgspec.json.encode({"Message": message, "ExceptionMessage": exception})


def mqtt_error(name: str, text: str, at: datetime) -> tuple[int, bytes]:
    """Status and JSON body of the error `name` as a device gets it over MQTT (hub specification 3.9)."""
    body = {
        "errorCode": ERROR_NUMBERS[name],
        "trackingId": "",
        "message": text,
        "timestampUtc": at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z",
    }
    return error_status(name), msgspec.json.encode(body)
