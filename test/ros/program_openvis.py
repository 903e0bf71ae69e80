"""The openvis program with a made-up engine, for tests that send it signals. Argument 1: seconds to load the model."""

from __future__ import annotations

import gc
import sys
import time
from typing import Any


def _make() -> Any:
    from ros_fakes import Loader

    from instformer_ros.nodes.openvis_node import OpenVisNode

    gc.freeze()  # as the real program does

    class SlowLoader(Loader):
        def __call__(self, model: str, device: str, settings: Any, *, precision: str, session: Any) -> Any:
            print("loading", flush=True)
            time.sleep(float(sys.argv[1]))
            return super().__call__(model, device, settings, precision=precision, session=session)

    return OpenVisNode(SlowLoader(engine_arguments={"step_time": 0.05}))


if __name__ == "__main__":
    from instformer_ros.nodes.run import run

    run(_make)
