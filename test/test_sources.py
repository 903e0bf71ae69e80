"""Sources of frames: what they give, and one line for whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from instformer_ros.data.sources import Source, open_source
from instformer_ros.data.toyvis import ToyVideo
from instformer_ros.structures import InstformerError


def picture(level: int, height: int = 24, width: int = 32) -> np.ndarray:
    """RGB that tells the channels and the corners apart."""
    image = np.full((height, width, 3), level, np.uint8)
    image[: height // 2, : width // 2] = (200, 20, 90)
    return image


def write(path: Path, image: np.ndarray) -> None:
    assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (32, 24))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write a video")
    for k in range(9):
        writer.write(picture(20 * k)[..., ::-1].copy())
    writer.release()
    return path


def check_frames(source: Source, count: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    frames = list(source)
    assert len(frames) == count
    for frame in frames:
        assert frame.shape == shape
        assert frame.dtype == np.uint8
        assert frame.flags.c_contiguous
    return frames


def test_video_file(video: Path) -> None:
    with open_source(str(video)) as source:
        assert (source.name, source.fps, source.length) == ("clip", 12.0, 9)
        frames = check_frames(source, 9, (24, 32, 3))
        assert np.array_equal(np.stack(frames), np.stack(list(source))), "a second loop starts from the first frame"
    for k, frame in enumerate(frames):
        assert abs(float(frame[20, 24].mean()) - 20 * k) < 4
        assert np.abs(frame[4, 4].astype(int) - (200, 20, 90)).max() < 12, "RGB, not BGR"


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for k, name in enumerate(("f1.png", "f2.PNG", "f10.bmp", "f11.png")):
        write(tmp_path / name, picture(50 * k)) if name != "f2.PNG" else write_upper(tmp_path / name, picture(50))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._f1.png").write_bytes(b"left by another system")
    (tmp_path / "sub").mkdir()
    with open_source(tmp_path) as source:
        assert (source.name, source.fps, source.length) == (tmp_path.name, 30.0, 4)
        frames = check_frames(source, 4, (24, 32, 3))
    assert [int(frame[20, 24, 0]) for frame in frames] == [0, 50, 100, 150]
    assert tuple(frames[0][4, 4]) == (200, 20, 90)


def write_upper(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def test_grey_and_16_bit_pictures_become_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((24, 32), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((24, 32, 3), 77 * 257, np.uint16))
    for frame in check_frames(open_source(tmp_path), 2, (24, 32, 3)):
        assert (frame == 77).all()


def test_single_picture_with_a_foreign_name(tmp_path: Path) -> None:
    path = tmp_path / "café 杯.png"
    write_upper(path, picture(60))
    assert np.array_equal(check_frames(open_source(path), 1, (24, 32, 3))[0], picture(60))


def test_toyvis() -> None:
    with open_source("toyvis:7") as source:
        assert (source.name, source.fps, source.length) == ("toyvis-7", 10.0, 36)
        frames = check_frames(source, 36, (192, 256, 3))
    assert np.array_equal(frames[20], ToyVideo(7).frame(20)[0])


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (4, 4), (100, 9)])
def test_max_frames(video: Path, wanted: int, given: int) -> None:
    with open_source(video, max_frames=wanted) as source:
        assert source.length == given
        assert len(list(source)) == given


def one_line_error(text: str | Path, *, max_frames: int | None = None) -> str:
    with pytest.raises(InstformerError) as caught:
        list(open_source(text, max_frames))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_empty_and_unreadable(tmp_path: Path, video: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in one_line_error(tmp_path / "nowhere.mp4")
    assert "no such file" in one_line_error("")
    (tmp_path / "zero.mp4").touch()
    assert "zero.mp4" in one_line_error(tmp_path / "zero.mp4")
    (tmp_path / "text.mp4").write_text("I am no video. " * 50)
    assert "text.mp4" in one_line_error(tmp_path / "text.mp4")
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[:300])
    assert "cut.avi" in one_line_error(tmp_path / "cut.avi")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in one_line_error(tmp_path / "empty")
    assert capfd.readouterr().err == "", "the error is said once, by us"


def test_video_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (32, 24)).release()
    if not path.exists():
        pytest.skip("this OpenCV writes no file for a video without frames")
    assert "none.avi" in one_line_error(path)


def test_bad_picture_in_a_folder_is_named(tmp_path: Path) -> None:
    for name in ("1.png", "3.png"):
        write(tmp_path / name, picture(9))
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:20])
    assert "2.png" in one_line_error(tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    assert "2.png" in one_line_error(tmp_path)
    assert len(list(open_source(tmp_path, max_frames=1))) == 1


def test_mixed_sizes_are_named(tmp_path: Path) -> None:
    write(tmp_path / "1.png", picture(9))
    write(tmp_path / "2.png", picture(9, 30, 40))
    message = one_line_error(tmp_path)
    assert "2.png" in message
    assert "40x30" in message
    assert "32x24" in message


@pytest.mark.parametrize("text", ["toyvis:", "toyvis:seven", "toyvis:-1", "webcam:front", "webcam:1.5"])
def test_bad_numbers(text: str) -> None:
    assert "whole number" in one_line_error(text)


def test_a_webcam_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert "webcam 97" in one_line_error("webcam:97")
    assert capfd.readouterr().err == ""


def test_max_frames_below_one() -> None:
    assert "max_frames" in one_line_error("toyvis:1", max_frames=0)
