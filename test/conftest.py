"""What every test shares: no test writes into the user's cache of text embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from instformer_ros.engine import Engine
    from instformer_ros.model.instformer import InstFormer


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sends the text cache to a folder of this run; commands that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def network() -> InstFormer:
    """A tiny network with random weights, for tests of the engine; not to be changed."""
    import tiny

    return tiny.model()


@pytest.fixture
def engine(network: InstFormer) -> Engine:
    """An engine of its own for every test, with three words."""
    import copy

    from engine_rig import CPU, LOOSE, WORDS

    from instformer_ros.engine import Engine

    made = Engine(copy.deepcopy(network), CPU, LOOSE)
    made.set_vocabulary(WORDS)
    return made
