"""A long, hostile run of the openvis node, checked all along:

    source scripts/env.sh && python benchmarks/soak.py --minutes 30

A camera process sends images of changing size and encoding, broken ones among them, with stamps and a /clock that jump;
it is killed and started again, and at times there are two. Words change every second, parameters at random (bad values
too), subscribers come and go, one of them never reads, and the node is taken through its life cycle. Checked are: every
result's header belongs to one good image; names and vocabulary versions agree; IDs are unique, age by one and never
come back; latency; silence; how soon a new camera is answered; memory, threads and open files; tracebacks in the log;
the way it ends. Exit code 0 if nothing was wrong. ``--plant BUG`` runs a node with a bug in it, which must end with 1.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions
from soak_checks import Checker
from soak_events import Soak
from soak_node import BUGS
from soak_probe import Probe
from soak_processes import Camera, keep_apart, start_node
from soak_resources import Resources

_SHORT, _WARMING = 10.0, 0.05
"""Minutes below which a run is one of warming up, and how much memory may grow in it."""


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=30.0, help="of the camera, Hz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--latency", type=float, default=2.0, help="most seconds from image to result (default: %(default)s)"
    )
    parser.add_argument(
        "--memory-growth", type=float, default=0.02, help="most after the first sixth (default: %(default)s)"
    )
    parser.add_argument("--no-transitions", action="store_true", help="leave the life cycle alone")
    parser.add_argument("--plant", choices=BUGS, help="run a node with this bug")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--log", type=Path, help="the node's log (default: a temporary file)")
    options = parser.parse_args()
    log_file = options.log or Path(tempfile.mkdtemp(prefix="soak_")) / "node.log"
    keep_apart()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    checker = Checker(options.latency)
    probe = Probe(checker)
    with log_file.open("wb") as log:
        node = start_node(options.plant, log)
        camera, resources = Camera(options.rate, log), Resources(node.pid)
        soak = Soak(probe, camera, node, resources, options.seed)
        try:
            while probe.state() != "active" and node.poll() is None:
                time.sleep(0.2)
            soak.run(60 * options.minutes, not options.no_transitions)
        except KeyboardInterrupt:
            print("interrupted: the report is of what was done")
        ended = _end(probe, node)
        camera.kill()
    checker.end()
    report = _report(options, checker, soak, resources, ended, log_file)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["faults"] else 0


def _end(probe: Probe, node: subprocess.Popen[bytes]) -> float:
    """SIGINT; seconds until the node has ended."""
    started = time.monotonic()
    if node.poll() is None:
        node.send_signal(signal.SIGINT)
        try:
            code = node.wait(20)
            if code != 0:
                probe.fault("end", f"code {code} after SIGINT")
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
            probe.fault("end", "still there 20 s after SIGINT")
    return time.monotonic() - started


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    return {"count": len(seconds), "median": round(float(np.median(seconds)), 3), "max": round(max(seconds), 3)}


def _report(
    options: argparse.Namespace, checker: Checker, soak: Soak, resources: Resources, ended: float, log_file: Path
) -> dict[str, Any]:
    lines = log_file.read_text(errors="replace").splitlines()
    tracebacks = [n for n, line in enumerate(lines) if line.startswith("Traceback")]
    if tracebacks:
        checker.fault("traceback", f"{len(tracebacks)} in {log_file}: " + " | ".join(lines[tracebacks[0] :][:12])[:600])
    growth: dict[str, Any] = {}
    if len(resources.rows) > 20:
        growth = resources.growth(min(300.0, resources.rows[-1][0] / 6))
        # RssAnon has heap, stacks and Python's objects: all that code of the node can lose hold of. At work it also has
        # what is kept on purpose for the next frame, the most that ever a frame took. RssFile (libraries, weights) and
        # RssShmem (Fast DDS) are brought and taken by the kernel and the middleware.
        judged = "at_rest" if "at_rest" in growth else "RssAnon"
        limit = options.memory_growth if options.minutes >= _SHORT else max(options.memory_growth, _WARMING)
        growth |= {"judged": judged, "most_growth": limit}
        if (grown := growth[judged]["growth"]) > limit:
            checker.fault("memory", f"RssAnon ({judged}) grew by {grown:.1%}")
        if growth["threads_growth"] > 2 or growth["files_growth"] > 4:
            checker.fault("resources", f"threads {growth['threads_growth']:+}, files {growth['files_growth']:+}")
    late = np.array(checker.latencies or [np.nan])
    return {
        "minutes": round(resources.rows[-1][0] / 60, 1) if resources.rows else 0,
        "planted": options.plant,
        "results": checker.results,
        "events": dict(soak.done),
        "latency_s": {"median": round(float(np.median(late)), 4), "p99": round(float(np.quantile(late, 0.99)), 4),
                      "max": round(float(late.max()), 4)},
        "recovery_s": {"of": "a new camera's first image to the first result", **_spread(soak.recoveries)},
        "recovery_since_kill_s": {"of": "the same from the old camera's end, the new process's start included",
                                  **_spread(soak.recoveries_since_kill)},
        "resources": {**growth, "course_MB": resources.course() if resources.rows else {}},
        "seconds_to_end": round(ended, 2),
        "faults": dict(checker.faults),
        "examples": checker.examples,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
