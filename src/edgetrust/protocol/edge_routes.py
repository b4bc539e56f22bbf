"""The desired properties of `$edgeHub`: which messages of a gateway go where, and how long they wait.

    FROM SOURCE [WHERE CONDITION] INTO SINK                                 a route, or
    {"route": "FROM ...", "priority": 0..9, "timeToLiveSecs": N}            one with more

    /*                                             everything
    /twinChangeNotifications[/*]                   what devices and modules report
    /messages[/*], /messages/events[/*]            every message; those of devices
    /messages/modules[/NAME[/outputs[/OUTPUT]]]    those of modules, of one, of its outputs, of one of them

    $upstream                                      the hub, or the gateway above
    BrokeredEndpoint("/modules/NAME/inputs/INPUT") an input of a module of this gateway

Rules (edge specification 6.7): keywords, sources and `$upstream` compare without case; a source is a prefix of path
segments. A message goes to every sink that a route of it names, once to each, by the route with the first priority; 0
is the first, and a route without one comes after 9. What is wrong with one route does not concern the others.

Pure. It does not know who is a module of this gateway, or where messages are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from edgetrust.limits import EDGE_ROUTES, EXPRESSION_CHARACTERS
from edgetrust.protocol.expressions import Expression, ExpressionError, parse_expression
from edgetrust.protocol.iothub.identifiers import valid_identifier
from edgetrust.protocol.iothub.message_query import MessageQuery, is_system_name, system_names
from edgetrust.protocol.iothub.properties import parse_properties
from edgetrust.protocol.messages import TWIN_CHANGES, Message
from edgetrust.protocol.values import FUNCTIONS

Json = Mapping[str, Any]

UPSTREAM: Final = "$upstream"
LOWEST_PRIORITY: Final = 2_000_000_000  # of a route that names none, as edgeHub has it
_HIGHEST_NUMBER: Final = 9
_FOREVER: Final = -1
_SECONDS_MAX: Final = 2**31 - 1  # what the real product keeps a number of seconds in
_BYTES_MAX: Final = 2**53

_ROUTE: Final = re.compile(
    r"\s*(?:SELECT\s+\*\s+)?FROM\s+(?P<source>\S+)(?:\s+WHERE\s+(?P<condition>.*\S))?\s+INTO\s+(?P<sink>.*?)\s*",
    re.IGNORECASE | re.DOTALL,
)
_SINK: Final = re.compile(r"BrokeredEndpoint\s*\(\s*([\"'])(?P<path>.*?)\1\s*\)", re.IGNORECASE)
_INPUT: Final = re.compile(r"/modules/(?P<module>[^/]+)/inputs/(?P<input>[^/]+)/?", re.IGNORECASE)
_SOURCES: Final = ("/*", "/messages/*", "/messages/events/*", "/messages/modules/*", "/twinChangeNotifications")
_SECTIONS: Final = ("schemaVersion", "routes", "storeAndForwardConfiguration")
_MEMBERS: Final = ("route", "priority", "timeToLiveSecs")
_STORE: Final = ("timeToLiveSecs", "storeLimits")
_TWINS: Final = "twinchangenotifications"
_OFFERED: Final = (("messages",), (_TWINS,), ())


@dataclass(frozen=True, slots=True)
class Sink:
    """Where a route ends: `queue` is UPSTREAM or the name of a module, whose `input` it is."""

    queue: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What cannot be used: `place` as `routes.NAME` or `storeAndForwardConfiguration`; `fix` may be empty."""

    place: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" ({self.fix})" if self.fix else "")


@dataclass(frozen=True, slots=True)
class EdgeRoute:
    """One route. `ttl_seconds` None: as long as all others; `source` in lower case, segment by segment."""

    name: str
    source: tuple[str, ...]
    condition: Expression | None
    sink: Sink
    priority: int = LOWEST_PRIORITY
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """That a message goes to `sink`, with this priority, for at most `ttl_seconds`; None: as long as there is room."""

    sink: Sink
    priority: int = LOWEST_PRIORITY
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class EdgeHubConfig:
    """What the desired properties say. `routes` None: nothing about routes. Problems are of what was left out."""

    routes: tuple[EdgeRoute, ...] | None = None
    ttl_seconds: int | None = None
    max_bytes: int | None = None
    problems: tuple[Problem, ...] = ()


def read_edge_hub(desired: Json) -> EdgeHubConfig:
    """Read the desired properties of `$edgeHub`; never fails: what cannot be used is told in `problems`."""
    problems = [
        Problem(name, "nothing of this name is read", _meant(name, _SECTIONS))
        for name in desired
        if not name.startswith("$") and name not in _SECTIONS and get_close_matches(name, _SECTIONS)
    ]
    routes = _read_routes(desired.get("routes"), problems)
    ttl, size = _read_store(desired.get("storeAndForwardConfiguration"), problems)
    return EdgeHubConfig(routes, ttl, size, tuple(problems))


def mend(desired: Json, before: Json, problems: Sequence[Problem]) -> Json:
    """`desired` with what is wrong in it replaced by what was there `before`, or left out."""
    mended = {name: value for name, value in desired.items() if not name.startswith("$")}
    for problem in problems:
        section, dot, name = problem.place.partition(".")
        if section == "routes" and dot and isinstance(mended.get("routes"), Mapping):
            earlier = before.get("routes")
            mended["routes"] = _with(
                mended["routes"], name, earlier.get(name) if isinstance(earlier, Mapping) else None
            )
        elif section in _SECTIONS:
            mended = dict(_with(mended, section, before.get(section)))
    return mended


class RouteTable:
    """Routes in force, compiled. `choose` says where a message goes."""

    __slots__ = ("_by_priority", "_every", "_ttl", "twin_changes")

    def __init__(self, config: EdgeHubConfig) -> None:
        self._ttl = config.ttl_seconds
        routes = (EdgeRoute("", (), None, Sink(UPSTREAM)),) if config.routes is None else config.routes
        self._by_priority = sorted(routes, key=lambda route: route.priority)
        self.twin_changes = any(_takes_twin_changes(route) for route in routes)
        self._every = self._for_every_message()

    def choose(self, message: Message) -> tuple[Choice, ...]:
        """The sinks of a message; none when no route takes it."""
        if self._every is not None and message.message_source != TWIN_CHANGES:
            return self._every
        path, query = _path(message), MessageQuery(message)
        chosen: dict[Sink, Choice] = {}
        for route in self._by_priority:
            if route.sink in chosen or path[: len(route.source)] != route.source:
                continue
            if path[0] == _TWINS and route.sink.queue == UPSTREAM:
                continue  # the hub gets the report itself
            if route.condition is None or route.condition.holds(query):
                chosen[route.sink] = self._choice(route)
        return tuple(chosen.values())

    def _choice(self, route: EdgeRoute) -> Choice:
        return Choice(route.sink, route.priority, self._ttl if route.ttl_seconds is None else route.ttl_seconds)

    def _for_every_message(self) -> tuple[Choice, ...] | None:
        """The answer when it is the same for every message: most gateways have one route."""
        if len(self._by_priority) != 1 or self._by_priority[0].condition is not None:
            return None
        route = self._by_priority[0]
        return (self._choice(route),) if route.source in ((), ("messages",)) else None


def _takes_twin_changes(route: EdgeRoute) -> bool:
    return route.sink.queue != UPSTREAM and route.source in ((), (_TWINS,))


def _path(message: Message) -> tuple[str, ...]:
    """Where a message comes from, in the words of sources."""
    if message.message_source == TWIN_CHANGES:
        return (_TWINS,)
    if message.module is None:
        return ("messages", "events")
    output = parse_properties(message.properties).get("$.on") if "on=" in message.properties else None
    return ("messages", "modules", message.module.lower(), *(("outputs", output.lower()) if output else ()))


# Reading ------------------------------------------------------------------------------------------------------------


class _Wrong(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def _read_routes(given: Any, problems: list[Problem]) -> tuple[EdgeRoute, ...] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        problems.append(Problem("routes", "it is no object", 'write {"NAME": "FROM /messages/* INTO $upstream"}'))
        return None
    routes = []
    for number, (name, value) in enumerate(given.items()):
        if name.startswith("$") or value is None:
            continue
        try:
            routes.append(_read_route(name, value, number))
        except _Wrong as wrong:
            problems.append(Problem(f"routes.{name}", wrong.message, wrong.fix))
    return tuple(routes)


def _read_route(name: str, value: Any, number: int) -> EdgeRoute:
    if number >= EDGE_ROUTES:
        raise _Wrong(f"there are more than {EDGE_ROUTES} routes", "put conditions together with OR")
    if isinstance(value, str):
        return _parse(name, value, LOWEST_PRIORITY, None)
    if not isinstance(value, Mapping):
        raise _Wrong("it is neither text nor object", 'write "FROM ... INTO ..." or {"route": "FROM ... INTO ..."}')
    _known(value, _MEMBERS)
    text = value.get("route")
    if not isinstance(text, str):
        raise _Wrong("it has no route", 'write {"route": "FROM ... INTO ..."}')
    priority = value.get("priority")
    if priority is not None and not (_is_whole(priority) and 0 <= priority <= _HIGHEST_NUMBER):
        raise _Wrong(f"priority is {priority!r:.40}", "a number from 0, the first, to 9; leave it out for the last")
    return _parse(
        name, text, LOWEST_PRIORITY if priority is None else int(priority), _seconds(value.get("timeToLiveSecs"))
    )


def _parse(name: str, text: str, priority: int, ttl: int | None) -> EdgeRoute:
    if len(text) > EXPRESSION_CHARACTERS:
        raise _Wrong(f"it has more than {EXPRESSION_CHARACTERS} characters")
    found = _ROUTE.fullmatch(text)
    if found is None:
        raise _Wrong(*_unreadable(text))
    condition = None if found["condition"] is None else _condition(found["condition"])
    return EdgeRoute(name, _source(found["source"]), condition, _sink(found["sink"]), priority, ttl)


def _unreadable(text: str) -> tuple[str, str]:
    words = text.upper().split()
    example = "write FROM /messages/* INTO $upstream"
    for keyword in ("FROM", "INTO"):
        if keyword not in words:
            near = get_close_matches(keyword, words, 1)
            return f"{keyword} is missing", f"write {keyword} instead of {near[0]}" if near else example
    return "it does not read FROM source [WHERE condition] INTO sink", example


def _source(text: str) -> tuple[str, ...]:
    if not text.startswith("/"):
        raise _Wrong(f"the source {text[:80]!r} does not begin with /", f"write /{text[:80]}")
    segments = text.strip("/").split("/") if text.strip("/") else []
    if segments and segments[-1] == "*":
        segments.pop()
    source = tuple(segment.lower() for segment in segments)
    if any("*" in segment for segment in source):
        raise _Wrong(f"the source {text[:80]!r} has a * that is not its last segment", "name the module or output")
    if source[:1] not in _OFFERED or (source[:1] == (_TWINS,) and len(source) > 1):
        raise _Wrong(f"there is no source {text[:80]!r}", _meant(text, _SOURCES))
    rest = source[1:]
    of_modules = rest[:1] == ("modules",) and len(rest) in (1, 2, 3, 4) and rest[2:3] in ((), ("outputs",))
    if rest and rest != ("events",) and not of_modules:
        shape = "/messages/modules/NAME/outputs/OUTPUT"
        raise _Wrong(f"there is no source {text[:80]!r}", f"write {shape}" if len(rest) > 1 else _meant(text, _SOURCES))
    return source


def _condition(text: str) -> Expression:
    try:
        condition = parse_expression(text)
    except ExpressionError as problem:
        near = [match for word in re.findall(r"\w+(?=\s*\()", text) if (match := _near(word, FUNCTIONS))]
        raise _Wrong(problem.message, f"did you mean {near[0]}?" if near else "") from problem
    for path in sorted(condition.paths, key=str):
        name = str(path[0])
        if name.startswith("$") and not is_system_name(name) and (near_name := _near(name, system_names())):
            raise _Wrong(f"there is no system property {name}", f"did you mean {near_name}?")
    return condition


def _sink(text: str) -> Sink:
    if text.lower() == UPSTREAM:
        return Sink(UPSTREAM)
    example = 'write $upstream or BrokeredEndpoint("/modules/NAME/inputs/INPUT")'
    found = _SINK.fullmatch(text)
    if found is None:
        near = get_close_matches(text.lower(), (UPSTREAM,))
        raise _Wrong(f"there is no sink {text[:80]!r}", f"did you mean {UPSTREAM}?" if near else example)
    place = _INPUT.fullmatch(found["path"])
    if place is None or not valid_identifier(place["module"]) or not valid_identifier(place["input"]):
        raise _Wrong(f"{found['path'][:80]!r} is no input of a module", 'write "/modules/NAME/inputs/INPUT"')
    return Sink(place["module"], place["input"])


def _read_store(given: Any, problems: list[Problem]) -> tuple[int | None, int | None]:
    place = "storeAndForwardConfiguration"
    try:
        store = _object(given, _STORE, '{"timeToLiveSecs": 7200}')
        limits = _object(store.get("storeLimits"), ("maxSizeBytes",), '"storeLimits": {"maxSizeBytes": 1073741824}')
        return _seconds(store.get("timeToLiveSecs")), _bytes(limits.get("maxSizeBytes"))
    except _Wrong as wrong:
        problems.append(Problem(place, wrong.message, wrong.fix))
        return None, None


def _object(given: Any, names: tuple[str, ...], example: str) -> Json:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _Wrong("it is no object", f"write {example}")
    _known(given, names)
    return given


def _bytes(size: Any) -> int | None:
    if size is None:
        return None
    if not (_is_whole(size) and 0 < size <= _BYTES_MAX):
        raise _Wrong(f"storeLimits.maxSizeBytes is {size!r:.40}", "a number of bytes above 0")
    return int(size)


def _seconds(given: Any) -> int | None:
    """None: as long as there is room, or as the whole table says."""
    if given is None or (_is_whole(given) and given in (0, _FOREVER)):
        return None
    if not (_is_whole(given) and 0 < given <= _SECONDS_MAX):
        raise _Wrong(f"timeToLiveSecs is {given!r:.40}", f"a number of seconds up to {_SECONDS_MAX}; -1 is for ever")
    return int(given)


def _known(given: Json, names: tuple[str, ...]) -> None:
    for name in given:
        if name not in names and not name.startswith("$"):
            raise _Wrong(f"it has a member {name[:40]!r} that is not read", _meant(name, names))


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def _near(name: str, known: Iterable[str]) -> str:
    """A known name that `name` was probably meant to be; "" when it is one, or none is near."""
    folded = {one.lower(): one for one in known}
    if name.lower() in folded:
        return ""
    near = get_close_matches(name.lower(), folded, 1, 0.75)
    return folded[near[0]] if near else ""


def _meant(name: str, known: tuple[str, ...]) -> str:
    near = _near(name, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"


def _with(values: Json, name: str, value: Any) -> Json:
    kept = {key: one for key, one in values.items() if key != name}
    return kept if value is None else {**kept, name: value}
