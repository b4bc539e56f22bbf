"""Configurations: what modules of many edge devices are to have as desired properties (hub specification 6.5).

A content has, for each module, keys with what stands there: `properties.desired` is everything, and
`properties.desired.a.b` one place in it.

Rules: a configuration with whole properties is a base; one with places only is a layer. Of the bases that target a
device the one with the highest priority holds, the newer one where priorities are equal; layers of the same or a
higher priority are put on it in the order of their priorities. Without a base there is nothing to put layers on.

Pure: who is targeted is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from edgetrust.errors import PeerError
from edgetrust.limits import MODULES_PER_DEVICE
from edgetrust.protocol.iothub.identifiers import valid_identifier
from edgetrust.protocol.query import parse_condition, parse_query
from edgetrust.protocol.query.syntax import And, Comparison, Expression, Literal, Operator, Path, Query, Source
from edgetrust.protocol.registry import decode_body
from edgetrust.protocol.twin import Json

WHOLE = "properties.desired"
_IDENTIFIER = re.compile(r"[a-z0-9:+%_#*?!(),=@;'.-]{1,128}")
EVERYBODY = "*"
_EDGE = Comparison(Operator.EQUAL, Path(("capabilities", "iotEdge")), Literal(True))
_BIG = 2**31 - 1


class ConfigurationError(PeerError):
    """A configuration that cannot be. `code` is the name for the error answer (hub specification 12.2)."""

    def __init__(self, message: str, *, code: str = "InvalidConfigurationContent", status: int = 400) -> None:
        super().__init__(message, reason="configuration-malformed", status=status)
        self.code = code


class ContentBody(msgspec.Struct, rename="camel", frozen=True):
    """`content` of a configuration, and the body that applies one to a single device."""

    modules_content: dict[str, dict[str, Any]] | None = None
    device_content: dict[str, Any] | None = None
    module_content: dict[str, Any] | None = None


class MetricsBody(msgspec.Struct, frozen=True):
    """Queries by name, and what they count; only the queries are read."""

    queries: dict[str, str] | None = None


class ConfigurationBody(msgspec.Struct, rename="camel", frozen=True):
    """A configuration as a client sends it."""

    id: str
    content: ContentBody | None = None
    schema_version: str | None = None
    labels: dict[str, str] | None = None
    target_condition: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=_BIG)] | None = None
    metrics: MetricsBody | None = None


class TestBody(msgspec.Struct, rename="camel", frozen=True):
    """What is to be tried out."""

    __test__ = False
    target_condition: str | None = None
    custom_metric_queries: dict[str, str] | None = None


Content = Mapping[str, Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class Layer:
    """One content with its rank: higher priorities count more, then those that were made later."""

    content: Content
    priority: int = 0
    made: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is a base: it says of some module everything."""
        return any(WHOLE in keys for keys in self.content.values())


def parse_configuration(data: bytes) -> ConfigurationBody:
    """A configuration with a name and condition that can be used. Raises BodyError, ConfigurationError, QueryError."""
    body = decode_body(data, ConfigurationBody)
    if not _IDENTIFIER.fullmatch(body.id):
        raise ConfigurationError(f"{body.id[:140]!r} cannot name a configuration", code="ArgumentInvalid")
    target(body.target_condition or "")
    for query in ((body.metrics and body.metrics.queries) or {}).values():
        parse_query(query)
    return body


def content_of(body: ContentBody | None) -> Content:
    """What is said of which module. Raises ConfigurationError."""
    if body is None or not body.modules_content:
        raise ConfigurationError("modulesContent is missing: nothing would be configured")
    if body.device_content or body.module_content:
        raise ConfigurationError("deviceContent and moduleContent are not supported; modulesContent is")
    if len(body.modules_content) > MODULES_PER_DEVICE:
        raise ConfigurationError(f"modulesContent has more than {MODULES_PER_DEVICE} modules")
    for module, keys in body.modules_content.items():
        if not valid_identifier(module):
            raise ConfigurationError(f"{module[:140]!r} cannot name a module")
        _check_keys(module, keys)
    return body.modules_content


def _check_keys(module: str, keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        if key != WHOLE and not re.fullmatch(r"properties\.desired(\.[^.\s$]+)+", key):
            raise ConfigurationError(f"{module}: {key[:140]!r} is neither {WHOLE} nor a place in it")
        if key == WHOLE and not isinstance(value, dict):
            raise ConfigurationError(f"{module}: {WHOLE} must be an object")
    if WHOLE in keys and len(keys) > 1:
        raise ConfigurationError(f"{module}: {WHOLE} and places in it exclude each other")


def target(condition: str) -> Query | None:
    """Which devices a configuration is for: the edge devices that the condition takes, `*` all of them, "" none.

    Raises ConfigurationError with the reader's words.
    """
    if not condition.strip():
        return None
    if condition.strip() == EVERYBODY:
        return Query(Source.DEVICES, condition=_EDGE)
    try:
        parsed: Expression = parse_condition(condition)
    except PeerError as problem:
        raise ConfigurationError(problem.message, code="InvalidConfigurationTargetCondition") from problem
    return Query(Source.DEVICES, condition=And((_EDGE, parsed)))


def effective(layers: Sequence[Layer]) -> dict[str, Json] | None:
    """The desired properties of each module of a device that these target; None when none of them is a base."""
    ordered = sorted(layers, key=lambda layer: (layer.priority, layer.made))
    bases = [layer for layer in ordered if layer.whole]
    if not bases:
        return None
    base = bases[-1]
    upon = [layer for layer in ordered if not layer.whole and layer.priority >= base.priority]
    result: dict[str, Json] = {}
    for layer in (base, *upon):
        for module, keys in layer.content.items():
            result[module] = applied(result.get(module, {}), keys)
    return result


def applied(desired: Json, keys: Mapping[str, Any]) -> Json:
    """`desired` with these keys put into it."""
    result: dict[str, Any] = dict(desired)
    for key, value in sorted(keys.items()):
        if key == WHOLE:
            result = dict(value)
        else:
            _put(result, key.removeprefix(WHOLE + ".").split("."), value)
    return result


def _put(into: dict[str, Any], names: Sequence[str], value: Any) -> None:
    *way, last = names
    for name in way:
        inner = into.get(name)
        into[name] = dict(inner) if isinstance(inner, Mapping) else {}
        into = into[name]
    into[last] = value
