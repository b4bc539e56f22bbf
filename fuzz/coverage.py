"""Which lines of ours an input reaches, so that a mutation that got further is mutated again."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

OURS = "/edgetrust/"


class Lines:
    """Lines seen so far. Code runs inside `with lines:`; afterwards `lines.new()` says whether it reached more."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, int]] = set()
        self._before = 0
        self._outer: Any = None  # who traced before: a debugger, say

    def __enter__(self) -> Lines:
        self._before = len(self._seen)
        self._outer = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._outer)

    def new(self) -> bool:
        """Whether the last code run reached lines that none before it did."""
        return len(self._seen) > self._before

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if OURS in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self._seen.add((frame.f_code, frame.f_lineno))
        return self._line
