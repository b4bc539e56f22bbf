"""What Prometheus would take of a metrics page: read by its Python parser, with what that lets pass and the server or
`promtool check metrics` does not.
"""

from __future__ import annotations

import math
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

_KINDS = ("counter", "gauge", "histogram", "summary")


def families(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples by name and labels, of a page that is right in every way."""
    assert page.endswith("\n"), "the last line ends"
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    names: Counter[str] = Counter()
    for family in text_string_to_metric_families(page):
        names[family.name] += 1
        assert family.type in _KINDS, f"{family.name} is of no kind"
        assert family.documentation, f"{family.name} says nothing of itself"
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples = found.setdefault(sample.name, {})
            assert labels not in samples, f"{sample.name}{labels} is there twice"
            samples[labels] = sample.value
            assert family.type != "counter" or sample.name == f"{family.name}_total", f"{sample.name} is a counter"
            assert family.type == "gauge" or sample.value >= 0 or math.isnan(sample.value), sample
        if family.type == "histogram":
            _cumulative(family.name, found)
    assert [name for name, count in names.items() if count > 1] == [], "each family is in one piece"
    return found


def _cumulative(name: str, found: dict[str, dict[tuple[tuple[str, str], ...], float]]) -> None:
    """Buckets only grow, and the last one has everything."""
    rows: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for labels, value in found.get(f"{name}_bucket", {}).items():
        others = tuple(one for one in labels if one[0] != "le")
        rows.setdefault(others, []).append((float(dict(labels)["le"]), value))
    assert rows.keys() == found.get(f"{name}_count", {}).keys()
    for others, buckets in rows.items():
        values = [value for _, value in sorted(buckets)]
        assert values == sorted(values), f"{name}: a bucket has less than the one before"
        assert max(buckets)[0] == math.inf
        assert values[-1] == found[f"{name}_count"][others]
