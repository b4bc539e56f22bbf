"""`python -m fuzz` (what `make fuzz` runs): damaged input for every parser that a peer can reach.

    python -m fuzz [--target NAME] [--seconds S] [--seed N] [--keep] [FILE ...]

A target is fed its corpus, then mutations of it for some seconds. An input that reaches lines which no input before it
has reached is mutated further; `--keep` adds it to the corpus. Only the exceptions that a parser documents may come
out. Anything else ends the target: the input is written to a file, and the command that runs it again is printed. FILEs
are run once, with the one target that `--target` names.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from fuzz.coverage import Lines
from fuzz.mutation import mutated
from fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("fuzz-found")
SECONDS = 10.0
INPUT_BYTES = 16 * 1024  # longer inputs find nothing that shorter ones do not, and take longer
SLOW_SECONDS = 1.0  # for one input: whoever sends it would hold up everybody else


def corpus(name: str) -> list[bytes]:
    """The kept inputs of a target, in the order of their names."""
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


class Run:
    """One target, fed for a while."""

    def __init__(self, name: str, target: Target, seed: int) -> None:
        self.name = name
        self.inputs = 0
        self._target = target
        self._random = random.Random(seed)
        self._lines = Lines()
        self._pool: list[bytes] = []

    def feed(self, data: bytes) -> bool:
        """Run one input; whether it reached something new. Raises what must not come out."""
        self.inputs += 1
        start = time.process_time()
        with self._lines as lines:
            self._target(data)
        if time.process_time() - start > SLOW_SECONDS:
            raise TimeoutError(f"one input took more than {SLOW_SECONDS:g} seconds")
        return lines.new()

    def start(self, kept: Sequence[bytes]) -> bytes | None:
        """Run what is kept. The input that failed, None if none did."""
        self._pool = list(kept) or [b""]
        return next((data for data in kept if self._fails(data)), None)

    def go_on(self, seconds: float) -> bytes | None:
        """Run mutations for a while. The input that failed, None if none did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._fails(data := mutated(self._random, self._pool)[:INPUT_BYTES]):
                return data
        return None

    def found(self, kept: Sequence[bytes]) -> list[bytes]:
        """Inputs beyond those `kept` that reached new lines."""
        return self._pool[len(kept) or 1 :]

    def _fails(self, data: bytes) -> bool:
        try:
            new = self.feed(data)
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            traceback.print_exc()
            return True
        if new and data not in self._pool:
            self._pool.append(data)
        return False


def _report(name: str, data: bytes) -> None:
    FOUND.mkdir(exist_ok=True)
    file = FOUND / f"{name}-{_digest(data)}"
    file.write_bytes(data)
    print(f"{name}: FAILED; run it again with: python -m fuzz --target {name} {file}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _fuzz(name: str, seconds: float, seed: int, *, keep: bool) -> bool:
    run, kept = Run(name, TARGETS[name], seed), corpus(name)
    failed = run.start(kept)
    if failed is None:
        failed = run.go_on(seconds)
    if failed is not None:
        _report(name, failed)
        return False
    found = run.found(kept)
    print(f"{name}: {run.inputs:,} inputs, {len(found)} of them reached something new", flush=True)
    for data in found if keep else ():
        (CORPUS / name / _digest(data)).write_bytes(data)
    return True


def _again(name: str, files: Sequence[Path]) -> bool:
    run = Run(name, TARGETS[name], 0)
    return run.start([file.read_bytes() for file in files]) is None


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing unexpected came out, else 1."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each target")
    parser.add_argument("--seed", type=int, default=None, help="for the same mutations again")
    parser.add_argument("--keep", action="store_true", help="add what reached something new to the corpus")
    parser.add_argument("files", nargs="*", type=Path, help="run these once instead")
    options = parser.parse_args(arguments)
    if options.files:
        if options.target is None:
            parser.error("files need --target")
        return 0 if _again(options.target, options.files) else 1
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}")
    names = sorted(TARGETS) if options.target is None else [options.target]
    passed = [_fuzz(name, options.seconds, seed, keep=options.keep) for name in names]  # each, whatever the others do
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
