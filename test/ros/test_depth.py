"""Depth messages against depth known beforehand: units, holes, calibration and refusals."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image

from instformer_ros.ros.depth import depth_metres, from_messages
from instformer_ros.structures import InstformerError

_METRES = np.array([[0.5, 1.0, 2.25], [4.0, 0.001, 65.0]], np.float32)


def _message(values: NDArray[Any], encoding: str, padding: int = 0, **fields: Any) -> Image:
    rows = np.pad(values.view(np.uint8).reshape(len(values), -1), ((0, 0), (0, padding)), constant_values=7)
    message = Image(height=values.shape[0], width=values.shape[1], encoding=encoding, step=rows.shape[1], **fields)
    message.data = array.array("B", rows.tobytes())
    return message


def _info(p: float = 0.0, k: float = 0.0) -> CameraInfo:
    info = CameraInfo()
    info.p = [p, 0.0, 3.0, 0.0, 0.0, p + 1, 4.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.k = [k, 0.0, 5.0, 0.0, k + 1, 6.0, 0.0, 0.0, 1.0]
    return info


@pytest.mark.parametrize("padding", [0, 2, 6])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_encodings_give_the_same_metres(padding: int, order: str) -> None:
    fields = {"is_bigendian": int(order == ">")}
    millimetres = np.round(_METRES * 1000).astype(f"{order}u2")
    for encoding, values in [("16UC1", millimetres), ("mono16", millimetres), ("32FC1", _METRES.astype(f"{order}f4"))]:
        metres = depth_metres(_message(values, encoding, padding, **fields))
        assert metres.dtype == np.float32
        np.testing.assert_allclose(metres, _METRES, rtol=1e-6)


def test_what_was_not_measured_is_nan() -> None:
    holes = np.array([[0.0, np.nan, np.inf, -np.inf, -1.0, 1.5]], np.float32)
    np.testing.assert_array_equal(depth_metres(_message(holes, "32FC1")), [[np.nan] * 5 + [1.5]])
    np.testing.assert_allclose(depth_metres(_message(np.array([[0, 1500]], "<u2"), "16UC1")), [[np.nan, 1.5]])
    assert holes[0, 0] == 0.0  # the message itself is left alone


def test_calibration_comes_from_p_and_else_from_k() -> None:
    message = _message(_METRES, "32FC1")
    both, k_only = from_messages(message, _info(p=500.0, k=400.0), 2, 3), from_messages(message, _info(k=400.0), 2, 3)
    assert (both.fx, both.fy, both.cx, both.cy) == (500.0, 501.0, 3.0, 4.0)
    assert (k_only.fx, k_only.fy, k_only.cx, k_only.cy) == (400.0, 401.0, 5.0, 6.0)


@pytest.mark.parametrize(
    ("changes", "info", "word"),
    [
        ({"encoding": "rgb8"}, _info(k=400.0), "32FC1"),
        ({"encoding": "32FC1", "step": 11}, _info(k=400.0), "step 11"),
        ({"data": array.array("B", bytes(23))}, _info(k=400.0), "23 bytes"),
        ({"height": 0}, _info(k=400.0), "3x0"),
        ({"width": 2}, _info(k=400.0), "registered"),
        ({}, CameraInfo(), "calibrate"),
        ({}, _info(k=float("nan")), "calibrate"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict[str, Any], info: CameraInfo, word: str) -> None:
    message = _message(_METRES, "32FC1")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(InstformerError, match=word) as refusal:
        from_messages(message, info, 2, 3)
    assert "\n" not in str(refusal.value)
