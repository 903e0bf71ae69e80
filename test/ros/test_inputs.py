"""What cameras send to the node: every encoding, JPEG and PNG, several cameras, depth, and cameras that misbehave."""

from __future__ import annotations

import array
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from ros_fakes import Loader
from ros_rig import Rig, Start
from ros_world import World, wait_for
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from instformer_ros.msg import InstanceArray
from instformer_ros.nodes.inputs import Arrival, CameraInput, InputSettings, decode
from instformer_ros.pixels import Pixels
from instformer_ros.ros import images
from instformer_ros.ros.images import to_message
from instformer_ros.ros.pairing import APPROXIMATE
from instformer_ros.ros.qos import image_qos, reliability_policy
from instformer_ros.structures import InstformerError

_RELIABLE = image_qos(reliability_policy("reliable"), depth=10)


def _header(seconds: float, frame_id: str = "eye") -> Header:
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = int(seconds), round(seconds % 1 * 1e9)
    return header


def _smooth(height: int = 48, width: int = 64) -> Pixels:
    """A picture that survives shared colour and JPEG nearly unharmed."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 2 * x, 200 - 2 * y, 90 + x + y], -1).astype(np.uint8)


def _send(picture: Pixels, encoding: str) -> tuple[NDArray[Any], bool]:
    """The rows that a camera of this encoding sends for a picture, and whether it comes through pixel for pixel."""
    height, width = picture.shape[:2]
    bits = 16 if encoding.endswith("16") else 8
    kind = encoding.removesuffix(str(bits))
    deep = (lambda a: a.astype("<u2") * 257) if bits == 16 else (lambda a: a)
    if set(kind) <= set("rgba"):
        alpha = np.full((height, width), 9, np.uint8)
        return deep(np.stack([alpha if c == "a" else picture[..., "rgb".index(c)] for c in kind], -1)), True
    if kind == "mono":
        return deep(picture[..., 0]), False  # grey of the red channel: compared with that below
    if kind.startswith("bayer_"):
        mosaic = np.zeros((height, width), np.uint8)
        for i, letter in enumerate(kind.removeprefix("bayer_")):
            mosaic[i // 2 :: 2, i % 2 :: 2] = picture[i // 2 :: 2, i % 2 :: 2, "rgb".index(letter)]
        return deep(mosaic), False
    yuv = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
    luma, (u, v) = yuv[:height], yuv[height:].reshape(2, height // 2, width // 2)
    if encoding in ("nv12", "nv21"):
        pairs = np.stack([u, v] if encoding == "nv12" else [v, u], -1)
        return np.vstack([luma, pairs.reshape(height // 2, width)]), False
    u, v = (np.repeat(plane, 2, 0) for plane in (u, v))
    order = "yuyv" if encoding in ("yuyv", "yuv422_yuy2") else "uyvy"
    parts = {"u": u, "v": v}
    columns = [luma[:, (i // 2) :: 2] if c == "y" else parts[c] for i, c in enumerate(order)]
    return np.stack(columns, -1).reshape(height, 2 * width), False


def _raw(picture: Pixels, encoding: str, header: Header) -> Image:
    rows, _ = _send(picture, encoding)
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1)
    message = Image(header=header, height=picture.shape[0], width=picture.shape[1], encoding=encoding)
    message.step, message.data = data.shape[1], array.array("B", data.tobytes())
    return message


def _compressed(picture: Pixels, suffix: str, header: Header) -> CompressedImage:
    file = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    message = CompressedImage(header=header, format=f"rgb8; {kind} compressed bgr8")
    message.data = array.array("B", file.tobytes())
    return message


# --- From the camera to the model -------------------------------------------------------------------------------------

_ENCODINGS = [f"{kind}{bits}" for kind in ("rgb", "bgr", "rgba", "bgra", "mono") for bits in (8, 16)]
_ENCODINGS += [f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)]
_ENCODINGS += ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"]


def _pictures_at_the_model(rig: Rig) -> list[Pixels]:
    """Keeps what reaches the engine."""
    seen: list[Pixels] = []
    begin = rig.loader.engine.begin

    def watched(images: Any) -> Any:
        seen.extend(np.array(image) for image in images.values())
        return begin(images)

    rig.loader.engine.begin = watched  # type: ignore[method-assign]
    return seen


def test_the_picture_of_every_encoding_reaches_the_model(start: Start) -> None:
    rig = start()
    seen = _pictures_at_the_model(rig)
    picture = _smooth()
    for number, encoding in enumerate(_ENCODINGS):
        rig.answer(_raw(picture, encoding, _header(number)))
        arrived, exact = seen[-1], _send(picture, encoding)[1]
        wanted = np.stack([picture[..., 0]] * 3, -1) if encoding.startswith("mono") else picture
        difference = np.abs(arrived.astype(int) - wanted)
        if exact or encoding.startswith("mono"):
            assert difference.max() == 0, encoding
        else:  # the edge has no neighbours to make colour from
            assert difference[2:-2, 2:-2].max() <= 6, (encoding, difference[2:-2, 2:-2].max())
    assert len(seen) == len(_ENCODINGS)


# Named in no cv_bridge: other names of yuv422 and the planar ones.
_IN_CV_BRIDGE = [e for e in _ENCODINGS if e not in ("uyvy", "yuyv", "nv12", "nv21")]


@pytest.mark.skipif(images.CvBridge is None, reason="cv_bridge is not installed: nothing to compare with")
@pytest.mark.parametrize("encoding", _IN_CV_BRIDGE)
def test_cv_bridge_makes_the_same_picture(encoding: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    message = _raw(noise, encoding, _header(1))
    wanted = images.CvBridge().imgmsg_to_cv2(message, "rgb8")
    np.testing.assert_array_equal(images.from_message(message), wanted)


def test_unknown_encodings_go_through_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bridge:
        def imgmsg_to_cv2(self, message: Image, encoding: str) -> Pixels:
            assert encoding == "rgb8"
            if message.encoding != "odd8":
                raise ValueError("not even I know that")
            return _smooth()

    monkeypatch.setattr(images, "CvBridge", Bridge)
    with pytest.raises(InstformerError, match="1048576x1048576"):
        images.from_message(Image(encoding="odd8", height=1 << 20, width=1 << 20))
    message = _raw(_smooth(), "rgb8", _header(1))
    message.encoding = "odd8"
    np.testing.assert_array_equal(images.from_message(message), _smooth())
    message.encoding = "odder8"
    with pytest.raises(InstformerError, match="'odder8' is not known"):
        images.from_message(message)
    monkeypatch.setattr(images, "CvBridge", None)
    message.encoding = "odd8"
    with pytest.raises(InstformerError, match="'odd8' is not known"):
        images.from_message(message)


def test_compressed_pictures_reach_the_model(start: Start, world: World) -> None:
    rig = start(Loader(), start=False, image_transport="compressed")
    rig.node.start()
    rig.camera = world.probe.create_publisher(CompressedImage, f"{world.namespace}/image/compressed", _RELIABLE)
    wait_for(rig.camera.get_subscription_count, what="the subscription")
    wait_for(lambda: world.probe.count_publishers(f"{world.namespace}/openvis/instances"))
    time.sleep(0.3)
    seen = _pictures_at_the_model(rig)
    picture = _smooth()
    rig.answer(_compressed(picture, ".png", _header(1)))
    np.testing.assert_array_equal(seen[-1], picture)
    rig.answer(_compressed(picture, ".jpg", _header(2)))
    assert np.abs(seen[-1].astype(int) - picture).max() <= 8
    broken = _compressed(picture, ".jpg", _header(3))
    broken.data = broken.data[:40]
    rig.camera.publish(broken)
    wait_for(lambda: rig.said("cannot be decoded"), what="the refusal")
    rig.answer(_compressed(picture, ".jpg", _header(4)))


def test_the_size_may_change_and_the_tracks_go_on(start: Start) -> None:
    rig = start()
    for number, (height, width) in enumerate([(24, 32), (48, 64), (24, 32)]):
        answer = rig.answer(_raw(_smooth(height, width), "rgb8", _header(number)))
        assert (answer.height, answer.width, answer.frame_index) == (height, width, number)


# --- Several cameras --------------------------------------------------------------------------------------------------


def test_three_cameras_share_a_pass_and_one_unplugged_leaves_the_others_at_their_rate(
    start: Start,
    world: World,
) -> None:
    names = ("front", "left", "right")
    rig = start(Loader(engine_arguments={"step_time": 0.002}), start=False, cameras=list(names), round_wait=0.04)
    rig.node.start()
    answers: dict[str, list[InstanceArray]] = {name: [] for name in names}
    cameras = {name: rig.make_camera(f"{name}/image") for name in names}
    for name in names:
        topic = f"{world.namespace}/openvis/{name}/instances"
        world.probe.create_subscription(InstanceArray, topic, answers[name].append, 100)
        wait_for(cameras[name].get_subscription_count)
        wait_for(lambda topic=topic: rig.node.count_subscribers(topic))
    time.sleep(0.3)
    for number in range(1, 31):
        for name in names:
            if name != "left" or number <= 15:
                cameras[name].publish(to_message(_smooth(24, 32), _header(number, name)))
        time.sleep(0.1)
    wait_for(lambda: len(answers["front"]) == len(answers["right"]) == 30, what="every image of the others")
    assert len(answers["left"]) == 15
    for name in names:
        assert [a.header.frame_id for a in answers[name]] == [name] * len(answers[name])
        assert [a.frame_index for a in answers[name]] == list(range(len(answers[name])))  # tracks of its own
    passes = [len(images) for images in rig.loader.engine.steps]
    assert passes.count(3) >= 10 and passes.count(2) >= 10 and len(passes) <= 40, passes


# --- A camera that stops, a bag that loops ----------------------------------------------------------------------------


def test_stamps_that_fall_back_clear_the_tracks_of_their_camera_only(start: Start, world: World) -> None:
    rig = start(Loader(), start=False, cameras=["front", "rear"], round_wait=0.0)
    rig.node.start()
    answers: dict[str, list[InstanceArray]] = {"front": [], "rear": []}
    cameras = {name: rig.make_camera(f"{name}/image") for name in answers}
    for name in answers:
        topic = f"{world.namespace}/openvis/{name}/instances"
        world.probe.create_subscription(InstanceArray, topic, answers[name].append, 100)
        wait_for(cameras[name].get_subscription_count)
        wait_for(lambda topic=topic: rig.node.count_subscribers(topic))
    time.sleep(0.3)

    def send(name: str, stamp: float) -> int:
        before = len(answers[name])
        cameras[name].publish(to_message(_smooth(24, 32), _header(stamp)))
        wait_for(lambda: len(answers[name]) > before, what="an answer")
        return int(answers[name][-1].frame_index)

    assert [send("front", t) for t in (10.0, 10.1, 10.05, 10.2)] == [0, 1, 2, 3]  # a little disorder is no loop
    assert [send("rear", t) for t in (10.0, 10.1)] == [0, 1]
    assert [send("front", t) for t in (1.0, 1.1)] == [0, 1]
    assert send("rear", 10.2) == 2
    wait_for(lambda: rig.said("fell back"), what="a line in the log")


def test_a_camera_that_comes_back_is_named_and_served(start: Start, world: World) -> None:
    rig = start(report_interval=0.4)
    first = rig.answer().frame_index
    world.probe.destroy_publisher(rig.camera)
    wait_for(lambda: rig.said("no image on"), what="the warning")
    rig.camera = rig.make_camera("image")
    wait_for(rig.camera.get_subscription_count)
    time.sleep(0.3)
    assert rig.answer().frame_index == first + 1
    wait_for(lambda: rig.said("again"), what="the good news")


# --- Depth ------------------------------------------------------------------------------------------------------------


class Eyes:
    """A :class:`CameraInput` alone, with what it put."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.put: list[Arrival] = []
        self.rewound: list[float] = []
        self.input = CameraInput(
            world.probe, "", InputSettings(use_depth=True, **settings), self.put.append, self.rewound.append
        )

    def image(self, stamp: float) -> Image:
        message = to_message(_smooth(4, 6), _header(stamp))
        self.input._on_image(message)
        return message

    def depth(self, stamp: float) -> Image:
        message = Image(header=_header(stamp), height=4, width=6, encoding="32FC1", step=24)
        message.data = array.array("B", np.full((4, 6), 2.0, np.float32).tobytes())
        self.input._on_depth(message)
        return message


@pytest.fixture
def eyes(world: World) -> Iterator[Callable[..., Eyes]]:
    made: list[Eyes] = []

    def make(**settings: Any) -> Eyes:
        made.append(Eyes(world, **settings))
        return made[-1]

    yield make
    for each in made:
        each.input.close()


def test_images_come_with_the_depth_of_their_stamp(eyes: Callable[..., Eyes]) -> None:
    here = eyes()
    first, second = here.image(1.0), here.image(1.1)
    assert not here.put
    depth = here.depth(1.1)
    assert [(a.image, a.depth) for a in here.put] == [(second, depth)]
    early = here.depth(1.3)
    third = here.image(1.3)
    assert (here.put[-1].image, here.put[-1].depth) == (third, early) and first not in [a.image for a in here.put]


@pytest.mark.skipif(not APPROXIMATE, reason="message_filters is not installed; it pairs stamps that differ")
def test_stamps_may_differ_by_the_slop(eyes: Callable[..., Eyes]) -> None:
    here = eyes(depth_slop=0.03)
    here.image(1.0)
    here.depth(1.02)
    assert len(here.put) == 1
    here.image(2.0)
    here.depth(2.04)
    assert len(here.put) == 1


def test_images_go_alone_when_depth_stays_away_and_with_it_when_it_is_back(eyes: Callable[..., Eyes]) -> None:
    here = eyes()
    here.input._paired -= 2.0  # seconds ago
    for stamp in (0.8, 0.9, 1.0):
        here.image(stamp)
    assert not here.put  # a slow camera that has missed a few
    alone = here.image(1.1)
    assert [(a.image, a.depth) for a in here.put] == [(alone, None)]
    here.depth(1.1)
    assert len(here.put) == 1  # never twice
    image, depth = here.image(1.2), here.depth(1.2)
    assert (here.put[-1].image, here.put[-1].depth) == (image, depth) and len(here.put) == 2


def test_depth_that_lags_behind_takes_no_image_back(eyes: Callable[..., Eyes]) -> None:
    """It returns two images late, when newer ones have been sent without it."""
    here = eyes()
    here.input._paired -= 2.0
    sent = [here.image(1.0 + 0.1 * n) for n in range(6)]
    for n in range(6, 11):
        sent.append(here.image(1.0 + 0.1 * n))
        here.depth(1.0 + 0.1 * (n - 2))
    order = [sent.index(arrival.image) for arrival in here.put]
    assert order == sorted(set(order)), "each once, none after a newer one"
    assert here.put[-1].depth is not None


def test_depth_that_comes_and_goes_does_not_flood_the_log(eyes: Callable[..., Eyes], monkeypatch: Any) -> None:
    here = eyes()
    said: list[str] = []
    log = types.SimpleNamespace(info=said.append, warning=said.append)
    monkeypatch.setattr(here.input._node, "get_logger", lambda: log)
    for n in range(10):
        for k in range(5):
            here.input._paired -= 2.0
            here.image(10.0 * n + k)
        here.depth(10.0 * n + 4)
        here.image(10.0 * n + 5)
    assert [("without it" in text, "again" in text) for text in said] == [(True, False), (False, True)]


def test_a_loop_forgets_who_waits(eyes: Callable[..., Eyes]) -> None:
    here = eyes()
    here.image(50.0)
    image = here.image(1.0)
    assert here.rewound == [pytest.approx(49.0)]
    here.depth(50.0)
    depth = here.depth(1.0)
    assert [(a.image, a.depth) for a in here.put] == [(image, depth)]


def _info(width: int, height: int) -> CameraInfo:
    return CameraInfo(width=width, height=height, k=[5.0, 0.0, 3.0, 0.0, 5.0, 2.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("info", "depth_size", "word"),
    [
        (None, (4, 6), "none has come"),
        (_info(12, 8), (4, 6), "another size"),
        (_info(6, 4), (8, 12), "registered"),
        (_info(6, 4), (4, 6), ""),
    ],
)
def test_bad_depth_is_left_out_and_the_picture_kept(
    info: CameraInfo | None, depth_size: tuple[int, int], word: str
) -> None:
    height, width = depth_size
    depth = Image(height=height, width=width, encoding="16UC1", step=2 * width)
    depth.data = array.array("B", np.full(depth_size, 1500, "<u2").tobytes())
    complaints: list[tuple[str, InstformerError]] = []
    message = to_message(_smooth(4, 6), _header(3.0))
    frame = decode("front", Arrival(message, depth, info), lambda *each: complaints.append(each))
    np.testing.assert_array_equal(frame.image, _smooth(4, 6))
    assert (frame.camera, frame.header) == ("front", message.header)
    if word:
        assert frame.depth is None and len(complaints) == 1 and word in str(complaints[0][1])
    else:
        assert not complaints and frame.depth is not None and frame.camera_info is info
        assert frame.depth.metres == pytest.approx(1.5) and frame.depth.fx == 5.0
