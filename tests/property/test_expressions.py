"""Whatever a condition is and a message holds: reading is refused with words, evaluating never fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgetrust.protocol.expressions import ExpressionError, parse_expression
from edgetrust.protocol.iothub.message_query import MessageQuery
from edgetrust.protocol.messages import Message
from edgetrust.protocol.values import FUNCTIONS

_OPERATORS = ["=", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "and", "or", "in"]
_LEAVES = st.sampled_from(["1", "'x'", "true", "null", "$body.temperature", "level", "missing", "$body.tags", "Count"])
_TEXTS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(_OPERATORS), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda part: f"(not {part})"),
        st.tuples(
            st.sampled_from(sorted(name for name, (fewest, _, _) in FUNCTIONS.items() if fewest == 1)), inner
        ).map(lambda parts: f"{parts[0]}({parts[1]})"),
    ),
    max_leaves=12,
)


def query(properties: str, body: bytes) -> MessageQuery:
    return MessageQuery(Message("d1", None, properties, body, 1_700_000_000_000, "{}", "Telemetry"))


@given(text=_TEXTS, body=st.binary(max_size=40), properties=st.text(max_size=40))
def test_evaluating_never_fails(text: str, body: bytes, properties: str) -> None:
    assert parse_expression(text).holds(query(properties, body)) in (True, False)


@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_expression(text).holds(query("level=hot", b"{}"))
    except ExpressionError as problem:
        assert problem.message
