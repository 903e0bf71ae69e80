"""`make demo`: a camera and the openvis node as processes of their own, over DDS, and what came out as files.

Uses `ros2 launch` where it exists, the plain executables where not. Read from the environment: VIDEO (a video file, a
folder of images, toyvis:SEED, webcam:N), VOCABULARY (comma separated), MODEL, DEVICE, OUTPUT (a folder). Leaves
overlay.mp4, contact_sheet.png and instances.json there, beside the processes' logs.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instformer_ros.data.sources import open_source
from instformer_ros.data.toyvideo import ToyVideo
from instformer_ros.model.vocabulary import parse_vocabulary, validate_names
from instformer_ros.structures import InstformerError

if TYPE_CHECKING:
    from rclpy.executors import Executor
    from recording import Recorder

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "instformer_ros"
DEFAULT_VIDEO = "toyvis:900001"
IMAGES, OPENVIS = "/camera/image_raw", "/openvis"
DOMAINS = range(40, 100)  # of those that are safe on any platform, 0-101; low ones are what people use by hand
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # of Fast DDS 2, and of 3
WITH_FAST_DDS_2 = ("humble", "iron", "jazzy")
START_SECONDS = 300.0  # for the node to load its model and listen; a GPU's first start can be slow
ANSWER_SECONDS = 60.0  # for the answer to the last frame
STOP_SECONDS = 15.0  # for a process to end by itself after SIGINT


@dataclass
class Job:
    """What is asked for."""

    video: str
    fps: float
    length: int | None
    names: tuple[str, ...]
    model: str
    device: str
    output: Path


def read_job() -> Job:
    """From the environment, checked before anything is started."""
    video = os.environ.get("VIDEO") or DEFAULT_VIDEO
    if not video.startswith(("toyvis:", "webcam:")):
        video = str(Path(video).expanduser().resolve())
    with open_source(video) as source:
        fps, length = source.fps, source.length
    text = os.environ.get("VOCABULARY", "")
    names = validate_names(parse_vocabulary(text))
    if not text and video.startswith("toyvis:"):
        names = tuple(sorted(set(ToyVideo(int(video.partition(":")[2])).names)))
    output = Path(os.environ.get("OUTPUT") or "out/demo")
    try:
        (output / "log").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstformerError(
            f"cannot write to {output} ({error.strerror}): choose another folder with OUTPUT="
        ) from error
    return Job(
        video, fps, length, names, os.environ.get("MODEL") or "toyvis", os.environ.get("DEVICE") or "auto", output
    )


@contextmanager
def private_domain() -> Iterator[int]:
    """A ROS domain that no other demo on this machine uses, local to the machine; the lock ends with the process."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        path = Path(tempfile.gettempdir()) / f"instformer_ros-demo-{domain}.lock"
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError:
            continue  # another user's
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        try:
            os.environ["ROS_DOMAIN_ID"] = str(domain)
            os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
            yield domain
        finally:
            os.close(handle)
        return
    raise InstformerError(
        f"all of the demo's ROS domains, {DOMAINS[0]}-{DOMAINS[-1]}, are in use: end another demo first"
    )


def use_transport_profile() -> None:
    """Shared memory large enough for images, unless the user has a profile of their own."""
    profile = ROOT / "config" / "fastdds.xml"
    if profile.exists() and not any(name in os.environ for name in PROFILE_VARIABLES):
        os.environ[PROFILE_VARIABLES[os.environ.get("ROS_DISTRO") not in WITH_FAST_DDS_2]] = str(profile)


# --- Processes --------------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """One child in a session of its own, so that a Ctrl-C reaches this program alone, which then ends its children."""

    name: str
    log: Path
    handle: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, command: list[str], folder: Path) -> Process:
        log = folder / f"{name}.log"
        with log.open("wb") as out:
            handle = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        return cls(name, log, handle)

    def running(self) -> bool:
        return self.handle.poll() is None

    def number(self, pattern: str) -> int | None:
        """The number that the pattern's group finds last in its log."""
        found = re.findall(pattern, self.log.read_text(encoding="utf-8", errors="replace"))
        return int(found[-1]) if found else None

    def complaints(self, *levels: str) -> list[str]:
        """The lines of its log that hold one of the levels, such as ``[ERROR]``."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if any(level in line for level in levels)]

    def tail(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

    def stop(self) -> None:
        """SIGINT to the child, which passes it on to its own; then harder, to all of its session."""
        if self.running():
            self.handle.send_signal(signal.SIGINT)
            try:
                self.handle.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"warning: {self.name} did not end within {STOP_SECONDS:.0f} s and is killed; see {self.log}")
        with suppress(ProcessLookupError):
            os.killpg(self.handle.pid, signal.SIGKILL)  # whoever is left of the session
        self.handle.wait()


@dataclass
class Demo:
    """The processes of one run. The camera starts when the openvis node listens: no frame is lost to loading."""

    job: Job
    processes: list[Process] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return self.job.output / "log"

    def start_nodes(self) -> None:
        """All of it by one launch file, or the openvis node alone where there is no launch."""
        if has_launch():
            job = self.job
            arguments = {
                "video": job.video, "vocabulary": ", ".join(job.names), "model": job.model, "device": job.device
            }  # fmt: skip
            command = ["ros2", "launch", PACKAGE, "demo.launch.py", *(f"{k}:={v}" for k, v in arguments.items())]
            self.processes.append(Process.start("launch", command, self.logs))
        else:
            parameters = {
                "model": self.job.model,
                "device": self.job.device,
                "vocabulary": list(self.job.names) or [""],
            }
            self._start_program("openvis", "openvis_node", {"image": IMAGES}, parameters)

    def start_camera(self) -> None:
        """Does nothing under launch, which starts the camera by itself."""
        if not has_launch():
            parameters = {"source": self.job.video, "wait_for_subscriber": True}
            self._start_program("camera", "camera_node", {"image": IMAGES}, parameters)

    def camera_ended(self) -> bool:
        """Whether the camera's process has done its work; False under launch, which has no such process of ours."""
        return any(process.name == "camera" and not process.running() for process in self.processes)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()

    def check_running(self) -> None:
        """Raises InstformerError, with the end of the log printed, if a process that should run has ended badly."""
        for process in self.processes:
            if not process.running() and (process.handle.returncode != 0 or process.name != "camera"):
                print(process.tail(), file=sys.stderr)
                raise InstformerError(f"{process.name} ended with code {process.handle.returncode}: see {process.log}")

    def _start_program(self, node: str, program: str, topics: dict[str, str], parameters: dict[str, Any]) -> None:
        # A file, since a shell word cannot bear all that a vocabulary can hold. JSON is YAML as well.
        file = self.logs / f"{node}.yaml"
        content = {"/**": {"ros__parameters": parameters}}
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        remaps = [part for old, new in topics.items() for part in ("-r", f"{old}:={new}")]
        command = [str(find_program(program)), "--ros-args", *remaps, "--params-file", str(file)]
        self.processes.append(Process.start(node, command, self.logs))


def has_launch() -> bool:
    """Whether `ros2 launch` can be used here; ROS 2 from PyPI has none."""
    return shutil.which("ros2") is not None and all(importlib.util.find_spec(m) for m in ("launch_ros", "ros2launch"))


def find_program(name: str) -> Path:
    """An executable of this package, where `ros2 run` would find it."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "lib" / PACKAGE / name
        if path.exists():
            return path
    raise InstformerError(f"{name} is not built: run 'make setup', or source the workspace that holds {PACKAGE}")


# --- The run ----------------------------------------------------------------------------------------------------------


class Progress:
    """One line that is kept up to date on a terminal, and a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._next = time.monotonic() + (0.0 if self._terminal else 10.0)

    def show(self, text: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.2 if self._terminal else 10.0)
        print(f"\r{text}\033[K" if self._terminal else text, end="" if self._terminal else "\n", flush=True)

    def end(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", flush=True)


def wait_until_listening(demo: Demo, recorder: Recorder, executor: Executor, progress: Progress) -> None:
    """Until the openvis node has its model and listens to the camera."""
    began = time.monotonic()
    while not recorder.openvis_listens():
        executor.spin_once(timeout_sec=0.05)
        seconds = time.monotonic() - began
        progress.show(f"starting the openvis node (loading the model '{demo.job.model}'): {seconds:.0f} s")
        demo.check_running()
        errors = demo.processes[0].complaints("[ERROR]", "[FATAL]")
        if errors or seconds > START_SECONDS:
            print("\n".join(errors), file=sys.stderr)
            raise InstformerError(f"the openvis node does not start: see {demo.processes[0].log}")
    recorder.watch_images()
    progress.end()
    print(f"openvis node ready after {time.monotonic() - began:.1f} s")


def record(demo: Demo, recorder: Recorder, executor: Executor, progress: Progress) -> None:
    """Until the camera has ended and its last frame is answered."""
    total = f" of {demo.job.length}" if demo.job.length else ""
    camera_seen, quiet_since = False, time.monotonic()
    while True:
        before = len(recorder.answers), recorder.overlays
        executor.spin_once(timeout_sec=0.1)
        counts = recorder.counts()
        progress.show(f"frames: {counts['sent']}{total} sent, {counts['answered']} answered")
        # An image can arrive before its publisher is discovered: that the topic has none says nothing until it had one.
        camera_seen = camera_seen or bool(recorder.cameras()) or demo.camera_ended()
        if recorder.cameras():
            quiet_since = time.monotonic()
            continue
        if (len(recorder.answers), recorder.overlays) != before:
            quiet_since = time.monotonic()
        quiet = time.monotonic() - quiet_since
        if camera_seen and recorder.sent and recorder.complete():
            break
        if quiet > (ANSWER_SECONDS if camera_seen else START_SECONDS):
            print(f"warning: nothing was heard for {quiet:.0f} s; the last frame is not answered")
            break
        demo.check_running()
    progress.end()


def report(job: Job, recorder: Recorder, seconds: float) -> None:
    """Writes the files and prints the table."""
    from recording import write_contact_sheet, write_instances

    recorder.close()
    about = {
        "source": job.video,
        "vocabulary": list(job.names),
        "model": job.model,
        "device": job.device,
        "fps": job.fps,
        "seconds": round(seconds, 2),
    }
    write_instances(job.output / "instances.json", recorder, about)
    if recorder.overlays:
        write_contact_sheet(job.output / "contact_sheet.png", job.output / "overlay.mp4")
    tracks = recorder.tracks()
    shown = sorted(tracks, key=lambda track: -track.seen)[:30]
    width = max([len(track.name) for track in shown] + [4])
    print(f"\n{'track':>5}  {'name':<{width}}  score  first  last  seen")
    for track in sorted(shown, key=lambda track: track.track_id):
        frames = f"{track.score:5.2f}  {track.first:>5}  {track.last:>4}  {track.seen:>4}"
        print(f"{track.track_id:>5}  {track.name or '-':<{width}}  {frames}")
    if len(shown) < len(tracks):
        print(f"and {len(tracks) - len(shown)} shorter ones: see instances.json")
    if not tracks:
        print("no instance passed the score threshold")
    counts = recorder.counts()
    why = " (a newer frame had come)" if counts["dropped"] else ""
    print(f"\n{counts['sent']} frames sent, {counts['answered']} answered, {counts['dropped']} dropped{why}")
    print(f"{seconds:.1f} s; see overlay.mp4, contact_sheet.png and instances.json in {job.output}/")


def run(job: Job) -> int:
    """The whole demo; returns the exit code."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions
    from recording import Recorder

    for old in ("overlay.mp4", "contact_sheet.png", "instances.json"):
        (job.output / old).unlink(missing_ok=True)
    demo, progress, code = Demo(job), Progress(), 0
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    recorder = Recorder(IMAGES, OPENVIS, job.output / "overlay.mp4", job.fps)
    executor = SingleThreadedExecutor()
    executor.add_node(recorder)
    began = time.monotonic()
    try:
        demo.start_nodes()
        wait_until_listening(demo, recorder, executor, progress)
        began = time.monotonic()
        demo.start_camera()
        record(demo, recorder, executor, progress)
    except KeyboardInterrupt:
        progress.end()
        print("interrupted")
        code = 130
    finally:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # a second Ctrl-C must not leave children behind
        seconds = time.monotonic() - began
        demo.stop()
        recorder.camera_sent = max((p.number(r"sent (\d+) images") or 0 for p in demo.processes), default=0)
        if recorder.answers:
            report(job, recorder, seconds)
        recorder.destroy_node()
        rclpy.try_shutdown()
    for process in demo.processes if not code else []:
        for line in process.complaints("[WARN]", "[ERROR]", "[FATAL]", "Traceback")[:5]:
            print(f"{process.name}: {line}")
    if not code and not recorder.answers:
        raise InstformerError(f"no frame was answered: see the logs in {demo.logs}")
    return code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    try:
        job = read_job()
        use_transport_profile()
        with private_domain() as domain:
            words = ", ".join(job.names) or "none: everything is tracked, unnamed"
            how = "ros2 launch" if has_launch() else "plain executables"
            print(f"source: {job.video}\nwords: {words}\nROS_DOMAIN_ID={domain}, {how}", flush=True)
            return run(job)
    except InstformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
