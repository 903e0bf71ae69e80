"""Program of the openvis node. The node itself is in :mod:`instformer_ros.nodes.openvis_node`."""

from __future__ import annotations

from collections.abc import Sequence

from instformer_ros.nodes.run import Program, run


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until a signal ends it; returns the exit code."""
    return run(_make, args)


def _make() -> Program:
    from instformer_ros.nodes.openvis_node import OpenVisNode  # takes seconds (torch), so Ctrl-C is heeded already

    return OpenVisNode()


if __name__ == "__main__":
    raise SystemExit(main())
