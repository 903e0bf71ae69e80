"""Program of the openvis node. The node itself is in :mod:`instformer_ros.nodes.openvis_node`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import NoReturn

from instformer_ros.nodes.run import Program, run


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the node until a signal ends it and the process."""
    run(_make, args)


def _make() -> Program:
    from instformer_ros.nodes.openvis_node import OpenVisNode  # takes seconds (torch), so Ctrl-C is heeded already

    gc.freeze()  # of torch's many objects nothing is ever collected; looking through them would cost frames
    return OpenVisNode()


if __name__ == "__main__":
    main()
