"""The query language over devices, modules and jobs (hub specification 6.4): text to syntax, and what a row is worth.

    tokens        words, numbers, texts and signs, with their places
    syntax        what a query is made of
    parser        tokens to syntax, with bounds on length and depth
    evaluation    conditions, projections and aggregates on rows of JSON

A query says what is wanted; who may ask and where rows come from is decided elsewhere.
"""

from edgetrust.protocol.query.evaluation import UNDEFINED, Aggregation, holds, project, value_at
from edgetrust.protocol.query.parser import QueryError, parse_condition, parse_query
from edgetrust.protocol.query.syntax import Expression, Path, Query, Source

__all__ = [
    "UNDEFINED",
    "Aggregation",
    "Expression",
    "Path",
    "Query",
    "QueryError",
    "Source",
    "holds",
    "parse_condition",
    "parse_query",
    "project",
    "value_at",
]
