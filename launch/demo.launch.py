"""ToyVIS, or another video, played to the openvis node: openvis.launch.py with something to see.

ros2 launch instformer_ros demo.launch.py rviz:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

LAUNCH = Path(get_package_share_directory("instformer_ros")) / "launch"
ARGUMENTS = [
    ("video", "toyvis:900001", "a video file, an image folder, toyvis:SEED or webcam:NUMBER"),
    ("vocabulary", "", "the words, comma separated; empty: those of the ToyVIS video, or none for another source"),
    ("model", "toyvis", "checkpoint: toyvis (embedded) or a path"),
    ("device", "auto", "auto, cpu, cuda or cuda:N"),
    ("loop", "false", "start the video again at its end"),
    ("rviz", "false", "show the overlay in RViz"),
    ("namespace", "", "namespace of all that is started"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """openvis.launch.py, with the words of a ToyVIS video filled in."""
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    kind, _, seed = given["video"].partition(":")
    if kind == "toyvis" and seed.isdigit() and not given["vocabulary"].strip():
        from instformer_ros.data.toyvideo import ToyVideo

        given["vocabulary"] = ", ".join(sorted(set(ToyVideo(int(seed)).names)))
    source = PythonLaunchDescriptionSource(str(LAUNCH / "openvis.launch.py"))
    return [IncludeLaunchDescription(source, launch_arguments=list(given.items()))]


def generate_launch_description() -> LaunchDescription:
    """Called by ``ros2 launch``."""
    declared = [DeclareLaunchArgument(n, default_value=value, description=text) for n, value, text in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
