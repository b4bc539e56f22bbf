"""The routes of a gateway: what is read, what is refused with which fix, and where messages go."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.limits import EDGE_ROUTES
from edgetrust.protocol.edge_routes import (
    LOWEST_PRIORITY,
    UPSTREAM,
    Choice,
    EdgeHubConfig,
    RouteTable,
    Sink,
    mend,
    read_edge_hub,
)
from edgetrust.protocol.messages import TELEMETRY, TWIN_CHANGES, Message

HUB = Sink(UPSTREAM)


def message(device: str = "leaf", module: str | None = None, properties: str = "", **more: Any) -> Message:
    body, source = more.get("body", b"{}"), more.get("source", TELEMETRY)
    return Message(device, module, properties, body, 0, "", source)


LEAF = message()
OUTPUT = message("gw", "Sensor", "%24.on=Temperature")
SILENT = message("gw", "sensor")
TWIN = message(source=TWIN_CHANGES)


def table(*routes: Any, **more: Any) -> RouteTable:
    named = {f"r{number}": route for number, route in enumerate(routes)}
    config = read_edge_hub({"routes": named, **more})
    assert config.problems == ()
    return RouteTable(config)


def sinks(routes: RouteTable, one: Message) -> list[Sink]:
    return [choice.sink for choice in routes.choose(one)]


def problem(route: Any) -> tuple[str, str]:
    config = read_edge_hub({"routes": {"bad": route, "good": "FROM /* INTO $upstream"}})
    (found,) = config.problems
    assert found.place == "routes.bad"
    assert config.routes is not None
    assert [one.name for one in config.routes] == ["good"]
    return found.message, found.fix


# What is read -------------------------------------------------------------------------------------------------------


def test_nothing_about_routes_sends_everything_up() -> None:
    assert read_edge_hub({}) == EdgeHubConfig()
    routes = RouteTable(EdgeHubConfig())
    for one in (LEAF, OUTPUT, SILENT):
        assert routes.choose(one) == (Choice(HUB),)
    assert routes.choose(TWIN) == ()


def test_no_routes_at_all_send_nothing_anywhere() -> None:
    assert table().choose(LEAF) == ()


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("/*", (LEAF, OUTPUT, SILENT)),
        ("/messages/*", (LEAF, OUTPUT, SILENT)),
        ("/messages", (LEAF, OUTPUT, SILENT)),
        ("/messages/events/*", (LEAF,)),
        ("/messages/modules/*", (OUTPUT, SILENT)),
        ("/messages/modules/SENSOR/*", (OUTPUT, SILENT)),
        ("/messages/modules/sensor", (OUTPUT, SILENT)),
        ("/messages/modules/sensor/outputs/*", (OUTPUT,)),
        ("/Messages/Modules/sensor/Outputs/temperature", (OUTPUT,)),
        ("/messages/modules/sensor/outputs/temp", ()),
        ("/messages/modules/other/*", ()),
        ("/twinChangeNotifications", ()),
    ],
)
def test_sources(source: str, taken: tuple[Message, ...]) -> None:
    routes = table(f"FROM {source} INTO $upstream")
    assert tuple(one for one in (LEAF, OUTPUT, SILENT, TWIN) if routes.choose(one)) == taken


def test_what_is_reported_goes_to_modules_and_never_up() -> None:
    routes = table(
        "FROM /twinChangeNotifications/* INTO BrokeredEndpoint('/modules/watch/inputs/twins')", "FROM /* INTO $upstream"
    )
    assert routes.twin_changes
    assert sinks(routes, TWIN) == [Sink("watch", "twins")]
    assert sinks(routes, LEAF) == [HUB]
    assert not table("FROM /* INTO $upstream").twin_changes


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("NOT IS_DEFINED($connectionModuleId)", (LEAF,)),
        ("$connectionDeviceId = 'gw'", (OUTPUT, SILENT)),
        ("$outputName = 'Temperature'", (OUTPUT,)),
        ("level = 'high'", (message(properties="level=high"),)),
        ("$body.temperature > 30", (message(body=b'{"temperature": 31}'),)),
        ("text = ' INTO '", (message(properties="text=%20INTO%20"),)),
    ],
)
def test_conditions(condition: str, holds: tuple[Message, ...]) -> None:
    routes = table(f"select * from /messages/* where {condition} into $UPSTREAM")
    candidates = (LEAF, OUTPUT, SILENT, *(one for one in holds if one not in (LEAF, OUTPUT, SILENT)))
    assert tuple(one for one in candidates if routes.choose(one)) == holds


def test_every_sink_once_by_the_first_priority() -> None:
    routes = table(
        "FROM /* INTO $upstream",
        {"route": "FROM /messages/events/* INTO $upstream", "priority": 0, "timeToLiveSecs": 60},
        {"route": 'FROM /* INTO BrokeredEndpoint("/modules/filter/inputs/in")', "priority": 3},
        {"route": "FROM /* INTO $upstream", "priority": 9},
        storeAndForwardConfiguration={"timeToLiveSecs": 7200, "storeLimits": {"maxSizeBytes": 1000}},
    )
    assert routes.choose(LEAF) == (Choice(HUB, 0, 60), Choice(Sink("filter", "in"), 3, 7200))
    assert routes.choose(OUTPUT) == (Choice(Sink("filter", "in"), 3, 7200), Choice(HUB, 9, 7200))


@pytest.mark.parametrize("forever", [-1, 0, None])
def test_how_long_messages_wait(forever: int | None) -> None:
    config = read_edge_hub({"storeAndForwardConfiguration": {"timeToLiveSecs": forever}})
    assert (config.ttl_seconds, config.max_bytes, config.problems) == (None, None, ())
    assert read_edge_hub(
        {"schemaVersion": "1.1", "storeAndForwardConfiguration": {"storeLimits": {"maxSizeBytes": 10}}}
    ) == EdgeHubConfig(max_bytes=10)
    route = {"route": "FROM /* INTO $upstream", "timeToLiveSecs": forever}
    assert table(route).choose(LEAF) == (Choice(HUB, LOWEST_PRIORITY, None),)


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "said", "fix"),
    [
        ("FORM /* INTO $upstream", "FROM is missing", "write FROM instead of FORM"),
        ("FROM /* INT0 $upstream", "INTO is missing", "write INTO instead of INT0"),
        ("", "FROM is missing", "write FROM /messages/* INTO $upstream"),
        ("FROM INTO $upstream", "it does not read FROM source", "write FROM /messages/* INTO $upstream"),
        ("FROM messages/* INTO $upstream", "does not begin with /", "write /messages/*"),
        ("FROM /message/* INTO $upstream", "there is no source '/message/*'", "did you mean /messages/*?"),
        ("FROM /messages/module/* INTO $upstream", "there is no source", "did you mean /messages/modules/*?"),
        ("FROM /messages/modules/m*/outputs/o INTO $upstream", "not its last segment", "name the module or output"),
        ("FROM /messages/modules/m/output/o INTO $upstream", "no source", "/messages/modules/NAME/outputs/OUTPUT"),
        ("FROM /deviceLifecycleEvents INTO $upstream", "there is no source", "there are /*, /messages/*"),
        ("FROM /* INTO upstream", "there is no sink 'upstream'", "did you mean $upstream?"),
        ("FROM /* INTO somewhere", "there is no sink", 'BrokeredEndpoint("/modules/NAME/inputs/INPUT")'),
        ("FROM /* INTO BrokeredEndpoint('modules/a/inputs/b')", "is no input of a module", '"/modules/NAME/inputs/'),
        ("FROM /* INTO BrokeredEndpoint('/modules/a/b')", "is no input of a module", '"/modules/NAME/inputs/INPUT"'),
        ("FROM /* WHERE INTO $upstream", "it does not read", "write FROM /messages/* INTO $upstream"),
        ("FROM /* WHERE a = INTO $upstream", "the condition cannot be read at its end", ""),
        ("FROM /* WHERE is_defind(a) INTO $upstream", "there is no function is_defind", "did you mean is_defined?"),
        ("FROM /* WHERE $conectionModuleId = 1 INTO $upstream", "no system property", "$connectionModuleId?"),
        ("FROM /* WHERE " + "a" * 5000 + " INTO $upstream", "more than 4096 characters", ""),
        (5, "neither text nor object", 'write "FROM'),
        ({}, "it has no route", 'write {"route"'),
        ({"rout": "FROM /* INTO $upstream"}, "a member 'rout' that is not read", "did you mean route?"),
        ({"route": "FROM /* INTO $upstream", "priority": 10}, "priority is 10", "from 0, the first, to 9"),
        ({"route": "FROM /* INTO $upstream", "priority": "1"}, "priority is '1'", "from 0"),
        ({"route": "FROM /* INTO $upstream", "timeToLiveSecs": -2}, "timeToLiveSecs is -2", "-1 is for ever"),
        ({"route": "FROM /* INTO $upstream", "timeToLiveSecs": True}, "timeToLiveSecs is True", "number of seconds"),
    ],
)
def test_a_route_that_cannot_be_used_is_told_with_its_fix_and_the_others_stay(route: Any, said: str, fix: str) -> None:
    found = problem(route)
    assert said in found[0]
    assert fix in found[1]


@pytest.mark.parametrize(
    ("desired", "place", "said"),
    [
        ({"routes": []}, "routes", "it is no object"),
        ({"route": {}}, "route", "nothing of this name is read"),
        ({"storeAndForwardConfiguration": 3}, "storeAndForwardConfiguration", "it is no object"),
        ({"storeAndForwardConfiguration": {"timeToLive": 3}}, "storeAndForwardConfiguration", "is not read"),
        ({"storeAndForwardConfiguration": {"storeLimits": 3}}, "storeAndForwardConfiguration", "it is no object"),
        (
            {"storeAndForwardConfiguration": {"storeLimits": {"maxBytes": 3}}},
            "storeAndForwardConfiguration",
            "maxBytes",
        ),
        (
            {"storeAndForwardConfiguration": {"storeLimits": {"maxSizeBytes": 0}}},
            "storeAndForwardConfiguration",
            "maxSizeBytes is 0",
        ),
    ],
)
def test_what_else_cannot_be_used(desired: dict[str, Any], place: str, said: str) -> None:
    config = read_edge_hub(desired)
    (found,) = config.problems
    assert found.place == place
    assert said in found.message
    assert str(found).startswith(f"{place}: ")
    assert (config.routes, config.ttl_seconds, config.max_bytes) == (None, None, None)


def test_more_routes_than_anybody_needs() -> None:
    config = read_edge_hub({"routes": {f"r{number}": "FROM /* INTO $upstream" for number in range(EDGE_ROUTES + 2)}})
    assert len(config.routes or ()) == EDGE_ROUTES
    assert [one.place for one in config.problems] == [f"routes.r{EDGE_ROUTES}", f"routes.r{EDGE_ROUTES + 1}"]


def test_what_is_wrong_stays_as_it_was() -> None:
    good, bad, new = "FROM /* INTO $upstream", "FORM", "FROM /messages/* INTO $upstream"
    before = {"routes": {"a.b": good, "b": good}, "storeAndForwardConfiguration": {"timeToLiveSecs": 5}}
    wanted = {
        "routes": {"a.b": bad, "b": new, "c": bad},
        "storeAndForwardConfiguration": {"timeToLiveSecs": "x"},
        "$version": 3,
    }
    mended = mend(wanted, before, read_edge_hub(wanted).problems)
    assert mended == {"routes": {"a.b": good, "b": new}, "storeAndForwardConfiguration": {"timeToLiveSecs": 5}}
    assert read_edge_hub(mended).problems == ()
    assert mend({"routes": 3}, before, read_edge_hub({"routes": 3}).problems) == {"routes": before["routes"]}
    assert mend({"routes": 3}, {}, read_edge_hub({"routes": 3}).problems) == {}
