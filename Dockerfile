# The node on the official ROS image. On a CPU:
#   docker build -t instformer_ros . && docker run --rm --network host --ipc host instformer_ros vocabulary:="mug"
# On an NVIDIA GPU add `--gpus all` (NVIDIA container toolkit) and build with
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-perception

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws

# A venv that sees the Python packages of ROS. torch first: it is the largest layer, and changes least.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv --system-site-packages /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.6,<3" "torchvision>=0.21,<1"
# "numpy<2": what this ROS's own packages are compiled against.
RUN /opt/venv/bin/pip install --no-cache-dir "numpy>=1.26,<2" "open_clip_torch>=2.30,<4" "pycocotools>=2.0.7,<3" \
    "safetensors>=0.4,<1"

COPY . src/instformer_ros
# hadolint ignore=DL3008
RUN apt-get update \
 && . "/opt/ros/${ROS_DISTRO}/setup.bash" && . /opt/venv/bin/activate \
 && (rosdep update --rosdistro "${ROS_DISTRO}" || true) \
 && rosdep install --from-paths src --ignore-src -y --skip-keys rviz2 \
 && colcon build --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=/opt/venv/bin/python" \
 && rm -rf build log /var/lib/apt/lists/*

RUN sed -i '$i source /ws/install/setup.bash' /ros_entrypoint.sh
# Of SIGTERM alone `ros2 launch` ends without its nodes.
STOPSIGNAL SIGINT
ENTRYPOINT ["/ros_entrypoint.sh", "ros2", "launch", "instformer_ros", "openvis.launch.py"]
