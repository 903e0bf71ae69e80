"""Starts the openvis node and, if asked for, a video to play as the camera, and RViz.

ros2 launch instformer_ros openvis.launch.py image:=/camera/image_raw vocabulary:="mug, drill, person"
"""

import os
import re
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
    ("depth", "", "depth topic, registered to the image; gives 3D outputs. Empty: none"),
    ("camera_info", "", "calibration of the image; empty: the camera_info beside the image topic"),
    ("target_frame", "", f"frame of the 3D outputs, through tf2; {FROM_FILE}"),
    ("vocabulary", "", f'the words, comma separated: "mug, drill, person"; {FROM_FILE}'),
    ("model", "", f"checkpoint: toyvis (embedded) or a path; {FROM_FILE}"),
    ("device", "", f"auto, cpu, cuda or cuda:N; {FROM_FILE}"),
    ("video", "", "play this instead of a camera: a video file, an image folder, toyvis:SEED or webcam:NUMBER"),
    ("loop", "false", "start the video again at its end"),
    ("rate", "0.0", "images a second of the video; 0.0 for its own"),
    ("rviz", "false", "show overlay, markers and depth cloud in RViz"),
    ("fixed_frame", "", "fixed frame of RViz; empty: target_frame, or 'camera'"),
    ("params_file", str(SHARE / "config" / "openvis.yaml"), "parameters of the node"),
    ("namespace", "", "namespace of all that is started"),
    ("autostart", "true", "configure and activate the node at once"),
    ("respawn", "false", "start the node again when it dies"),
    ("use_sim_time", "false", "take the time from /clock, for bags and simulations"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    (
        "transport_profile",
        str(SHARE / "config" / "fastdds.xml"),
        "Fast DDS profile with shared memory for images; none: Fast DDS's defaults; the environment's goes first",
    ),
]
CHOSEN = ("model", "device", "target_frame")  # parameters that an argument, if not empty, takes over
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # Fast DDS 2, 3
WITH_FAST_DDS_2 = ("humble", "iron", "jazzy")
TOPIC = re.compile(r"(~?/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
DEFAULT_TRANSPORT = ("none", "")  # ros2 launch takes no empty argument, an including launch file does
SWITCH = ["true", "false", "True", "False"]
CHOICES = {
    **dict.fromkeys(("loop", "rviz", "autostart", "respawn", "use_sim_time"), SWITCH),
    "log_level": ["debug", "info", "warn", "error", "fatal"],
}


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """All that the arguments ask for."""
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    check(given)
    sim_time = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    given["camera_info"] = given["camera_info"] or "".join([*given["image"].rpartition("/")[:2], "camera_info"])
    common = {
        "package": PACKAGE,
        "namespace": given["namespace"],
        "remappings": [(name, given[name]) for name in ("image", "camera_info", "depth") if given[name]],
        "output": "screen",
        "arguments": ["--ros-args", "--log-level", given["log_level"]],
    }
    actions: list[LaunchDescriptionEntity] = []
    if given["transport_profile"] not in DEFAULT_TRANSPORT and not any(
        name in os.environ for name in PROFILE_VARIABLES
    ):
        variable = PROFILE_VARIABLES[os.environ.get("ROS_DISTRO") not in WITH_FAST_DDS_2]
        actions.append(SetEnvironmentVariable(variable, given["transport_profile"]))

    chosen: dict = {name: ParameterValue(given[name], value_type=str) for name in CHOSEN if given[name]}
    words = [word.strip() for word in given["vocabulary"].split(",") if word.strip()]
    if words:
        chosen["vocabulary"] = ParameterValue(words, value_type=list[str])
    if given["depth"]:
        chosen["use_depth"] = True
    chosen["autostart"] = given["autostart"].lower() == "true"
    actions.append(
        Node(
            executable="openvis_node",
            name="openvis",
            parameters=[given["params_file"], chosen, sim_time],
            respawn=given["respawn"].lower() == "true",
            respawn_delay=2.0,
            **common,
        )
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


def check(given: dict) -> None:
    """Raises ValueError for what would only be noticed later, or never."""
    for name, without in (("params_file", ()), ("transport_profile", DEFAULT_TRANSPORT)):
        if given[name] not in without and not Path(given[name]).is_file():
            raise ValueError(f"{name}:={given[name]}: there is no such file")
    for name in ("image", "depth", "camera_info"):
        if given[name] and not TOPIC.fullmatch(given[name]):
            raise ValueError(f"{name}:={given[name]}: this is no topic's name; write it like /camera/image_raw")
    try:
        in_range = 0.0 <= float(given["rate"]) <= 1000.0
    except ValueError:
        in_range = False
    if not in_range:
        raise ValueError(f"rate:={given['rate']}: give a number from 0.0 to 1000.0, 10.0 say")


def rviz(given: dict, sim_time: dict) -> LaunchDescriptionEntity:
    """RViz, or a word about its absence."""
    try:
        get_package_share_directory("rviz2")
    except PackageNotFoundError:
        return LogInfo(msg="rviz:=true, but rviz2 is not installed: install ros-$ROS_DISTRO-rviz2, or leave rviz out")
    prefix = f"/{given['namespace'].strip('/')}" if given["namespace"].strip("/") else ""
    views = [
        (f"/openvis/{name}", f"{prefix}/openvis/{name}") for name in ("overlay", "camera_info", "markers", "points")
    ]
    sources = [("/camera/image_raw", given["image"]), ("/camera/camera_info", given["camera_info"])]
    fixed_frame = given["fixed_frame"] or given["target_frame"] or "camera"
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "config" / "openvis.rviz"), "-f", fixed_frame],
        parameters=[sim_time],
        remappings=[*views, *sources, *([("/camera/depth", given["depth"])] if given["depth"] else [])],
        output="log",
    )


def generate_launch_description() -> LaunchDescription:
    """Called by ``ros2 launch``."""
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text, choices=CHOICES.get(name))
        for name, value, text in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
