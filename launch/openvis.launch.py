"""Starts the openvis node and, if asked for, a video to play as the camera, and RViz.

ros2 launch instformer_ros openvis.launch.py image:=/camera/image_raw vocabulary:="mug, drill, person"
"""

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

PACKAGE = "instformer_ros"
SHARE = Path(get_package_share_directory(PACKAGE))
FROM_FILE = "empty: as params_file says"
ARGUMENTS = [
    ("image", "/camera/image_raw", "image topic of the camera"),
    ("vocabulary", "", f'the words, comma separated: "mug, drill, person"; {FROM_FILE}'),
    ("model", "", f"checkpoint: toyvis (embedded) or a path; {FROM_FILE}"),
    ("device", "", f"auto, cpu, cuda or cuda:N; {FROM_FILE}"),
    ("video", "", "play this instead of a camera: a video file, an image folder, toyvis:SEED or webcam:NUMBER"),
    ("loop", "false", "start the video again at its end"),
    ("rate", "0.0", "images a second of the video; 0.0 for its own"),
    ("rviz", "false", "show overlay and image in RViz"),
    ("params_file", str(SHARE / "config" / "openvis.yaml"), "parameters of the node"),
    ("namespace", "", "namespace of all that is started"),
    ("autostart", "true", "configure and activate the node at once"),
    ("use_sim_time", "false", "take the time from /clock, for bags and simulations"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    (
        "transport_profile",
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile with shared memory for images (empty: Fast DDS's defaults); the environment's goes first",
    ),
]
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2, 3
WITH_FAST_DDS_2 = ("humble", "iron", "jazzy")


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """All that the arguments ask for."""
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    sim_time = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    common = {
        "package": PACKAGE,
        "namespace": given["namespace"],
        "remappings": [("image", given["image"])],
        "output": "screen",
        "arguments": ["--ros-args", "--log-level", given["log_level"]],
    }
    actions: list[LaunchDescriptionEntity] = []
    if given["transport_profile"] and not any(name in os.environ for name in PROFILE_VARIABLES):
        variable = PROFILE_VARIABLES[os.environ.get("ROS_DISTRO") not in WITH_FAST_DDS_2]
        actions.append(SetEnvironmentVariable(variable, given["transport_profile"]))

    chosen: dict = {name: ParameterValue(given[name], value_type=str) for name in ("model", "device") if given[name]}
    words = [word.strip() for word in given["vocabulary"].split(",") if word.strip()]
    if words:
        chosen["vocabulary"] = ParameterValue(words, value_type=list[str])
    chosen["autostart"] = given["autostart"].lower() == "true"
    actions.append(
        Node(executable="openvis_node", name="openvis", parameters=[given["params_file"], chosen, sim_time], **common)
    )
    if given["video"]:
        video = {
            "source": ParameterValue(given["video"], value_type=str),
            "rate": float(given["rate"]),
            "loop": given["loop"].lower() == "true",
            "wait_for_subscriber": True,
        }
        actions.append(Node(executable="camera_node", name="camera", parameters=[video, sim_time], **common))
    if given["rviz"].lower() == "true":
        actions.append(rviz(given, sim_time))
    return actions


def rviz(given: dict, sim_time: dict) -> LaunchDescriptionEntity:
    """RViz, or a word about its absence."""
    try:
        get_package_share_directory("rviz2")
    except PackageNotFoundError:
        return LogInfo(msg="rviz:=true, but rviz2 is not installed: install ros-$ROS_DISTRO-rviz2, or leave rviz out")
    prefix = f"/{given['namespace'].strip('/')}" if given["namespace"].strip("/") else ""
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "config" / "openvis.rviz")],
        parameters=[sim_time],
        remappings=[("/openvis/overlay", f"{prefix}/openvis/overlay"), ("/camera/image_raw", given["image"])],
        output="log",
    )


def generate_launch_description() -> LaunchDescription:
    """Called by ``ros2 launch``."""
    declared = [DeclareLaunchArgument(n, default_value=value, description=text) for n, value, text in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
