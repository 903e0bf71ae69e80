"""Pickles are programs: those of others are read as data, and what asks for more is refused by name."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instformer_ros.structures import InstformerError
from instformer_ros.weights.arrays import read_arrays
from instformer_ros.weights.unpickle import unpickle


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(InstformerError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Attack:
    """Unpickled by pickle itself, this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.path)!r}, 'w')",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_wants_to_run_something_is_refused_by_name(protocol: int, tmp_path: Path) -> None:
    path, trace = tmp_path / "model.pkl", tmp_path / "it ran"
    path.write_bytes(pickle.dumps({"model": {"weight": np.zeros(2), "x": Attack(trace)}}, protocol))
    text = complaint(lambda: read_arrays(path))
    assert "builtins.exec'" in text or "__builtin__.exec'" in text
    assert "refused, nothing of it was run" in text
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "it would have run"


def test_a_torch_file_that_wants_to_run_something_is_refused_by_name(tmp_path: Path) -> None:
    for zipped in (True, False):
        path, trace = tmp_path / "model.bin", tmp_path / "it ran"
        torch.save({"x": Attack(trace)}, path, _use_new_zipfile_serialization=zipped)
        text = complaint(lambda path=path: read_arrays(path))  # type: ignore[misc]
        assert "asks for 'exec'" in text
        assert not trace.exists()


@pytest.mark.parametrize(
    "thing", [b"cos\nsystem\n(S'true'\ntR.", b"c__main__\nX\n.", b"\x80\x04\x8c\x02os\x8c\x06system\x93."]
)
def test_names_alone_are_refused_too(thing: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(thing)
    assert "asks for '" in complaint(lambda: read_arrays(path))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_come_through(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
        "F order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "half": np.ones(2, np.float16),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.int64),
    }
    content = {"model": OrderedDict(arrays), "iteration": 7, "list": [1, (2.5, None)], "number": np.float32(0.5)}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_arrays(path)
    assert list(found) == list(arrays)
    for key, value in arrays.items():
        assert np.array_equal(found[key].numpy(), value), key
        assert found[key].numpy().dtype == value.dtype.newbyteorder("=")
    rest = unpickle(path)
    assert (rest["iteration"], rest["list"], rest["number"]) == (7, [1, (2.5, None)], 0.5)


@pytest.mark.parametrize(
    "thing",
    [
        np.array([{"a": 1}], object),
        np.zeros(2, [("a", "f4")]),
        np.array(["text"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, np.complex64),
    ],
    ids=["objects", "records", "text", "dates", "complex"],
)
def test_arrays_of_other_things_are_refused(thing: Any, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"x": thing}}))
    assert str(tmp_path / "m.pkl") in complaint(lambda: read_arrays(tmp_path / "m.pkl"))


def test_a_pickle_cannot_set_memory_aside_on_its_word(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    for claim in (
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
        b"\x80\x04Nr\xff\xff\xff\xff}.",
        b"\x80\x05\x96" + b"\xff" * 8,
    ):
        path.write_bytes(claim)
        complaint(lambda: read_arrays(path))
