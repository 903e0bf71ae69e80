"""The openvis node on a depth camera: openvis.launch.py with the topics of a RealSense, unless others are given.

ros2 launch instformer_ros openvis_depth.launch.py vocabulary:="mug, drill" target_frame:=base_link rviz:=true

It takes every argument of openvis.launch.py.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

LAUNCH = Path(get_package_share_directory("instformer_ros")) / "launch"
ARGUMENTS = [
    ("image", "/camera/camera/color/image_raw", "image topic of the camera"),
    ("camera_info", "/camera/camera/color/camera_info", "calibration of the image"),
    ("depth", "/camera/camera/aligned_depth_to_color/image_raw", "depth topic, registered to the image"),
    ("fixed_frame", "camera_color_optical_frame", "fixed frame of RViz"),
]


def generate_launch_description() -> LaunchDescription:
    """Called by ``ros2 launch``."""
    declared = [DeclareLaunchArgument(n, default_value=value, description=text) for n, value, text in ARGUMENTS]
    source = PythonLaunchDescriptionSource(str(LAUNCH / "openvis.launch.py"))
    given = [(name, LaunchConfiguration(name)) for name, _, _ in ARGUMENTS]
    return LaunchDescription([*declared, IncludeLaunchDescription(source, launch_arguments=given)])
