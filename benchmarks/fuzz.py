"""Odd messages and broken files by the thousand: each is answered or refused in one line, soon, and nothing dies.

    python benchmarks/fuzz.py messages --count 100000
    python benchmarks/fuzz.py files --count 10000
    python benchmarks/fuzz.py files --only checkpoint:1234     # one case again, with its traceback
    source scripts/env.sh && python benchmarks/fuzz.py node --count 1000     # to a running node, over DDS

A case is made from its kind, its number and the seed alone. The cases run in a process of their own, so that a crash
in C is a finding too, and not the end. What goes to a node: :mod:`fuzz_node`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test"), str(Path(__file__).parent)]  # the tests' tiny files are reused

from fuzz_cases import FILES, MESSAGES, Case  # noqa: E402

from instformer_ros.structures import InstformerError  # noqa: E402

SLOW = 10.0  # seconds that a case may take on a busy machine
HANGING = 120.0  # after so many it is ended
LONGEST = 600  # characters of a refusal


def judge(case: Case, number: int, seed: int) -> str:
    """Runs one case: "accepted", "refused", or what is wrong with how it ended."""
    started = time.monotonic()
    try:
        case(random.Random(f"{seed} {case.__name__} {number}"))
        outcome = "accepted"
    except InstformerError as error:
        line = str(error)
        outcome = "refused" if "\n" not in line and len(line) <= LONGEST else f"a refusal of more than a line: {line!r}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1]})"
    seconds = time.monotonic() - started
    return outcome if seconds < SLOW else f"took {seconds:.0f} s"


def work(cases: dict[str, Callable[[Path], Case]], todo: list[tuple[str, int]], seed: int, at: Any, out: Any) -> None:
    """The child: runs ``todo`` from ``at.value`` on and tells the outcome of each."""
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, Case] = {}
        while at.value < len(todo):
            kind, number = todo[at.value]
            faulthandler.dump_traceback_later(HANGING, exit=True)
            if kind not in made:
                made[kind] = cases[kind](Path(folder))
                made[kind].__name__ = kind
            out.send((kind, number, judge(made[kind], number, seed)))
            at.value += 1
        faulthandler.cancel_dump_traceback_later()
        out.send(("", 0, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def run(cases: dict[str, Callable[[Path], Case]], count: int, seed: int) -> dict[str, Any]:
    """All kinds in turn, ``count`` cases in all."""
    kinds = list(cases)
    todo = [(kinds[n % len(kinds)], n // len(kinds)) for n in range(count)]
    context = multiprocessing.get_context("fork")
    at = context.Value("q", 0)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    faults: list[str] = []
    peak, started = 0, time.monotonic()
    while at.value < count:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=work, args=(cases, todo, seed, at, theirs))
        child.start()
        theirs.close()
        try:
            while True:
                kind, number, outcome = ours.recv()
                if not kind:
                    peak = max(peak, int(outcome))
                elif outcome in ("accepted", "refused"):
                    outcomes[kind][outcome] += 1
                else:
                    faults.append(f"{kind}:{number} {outcome}")
        except EOFError:
            child.join()
        if child.exitcode:
            kind, number = todo[at.value]
            faults.append(f"{kind}:{number} ended the process (exit code {child.exitcode})")
            at.value += 1
    return {
        "cases": count,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "peak_MiB": peak,
        "outcomes": {kind: dict(counter) for kind, counter in outcomes.items()},
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("messages", "files", "node"))
    parser.add_argument("--count", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="run this case alone, in this process")
    options = parser.parse_args()
    cases = MESSAGES if options.what == "messages" else FILES
    if options.only and options.what == "node":
        parser.error("--only is for messages and files: what a node does depends on what came before")
    if options.only:
        kind, _, number = options.only.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            case = cases[kind](Path(folder))
            case(random.Random(f"{options.seed} {kind} {int(number)}"))
        return 0
    if options.what == "node":
        import fuzz_node  # needs ROS

        report = fuzz_node.run(options.count, options.seed)
    else:
        report = run(cases, options.count, options.seed)
    print(json.dumps(report, indent=1))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
