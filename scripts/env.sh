# The environment of this package after `make setup`, for bash: source scripts/env.sh
#
# Activates the venv and sources the built messages and nodes. Inside it, `python`, `pytest` and `instformer` work, and
# so do the executables in install/instformer_ros/lib/instformer_ros/ (with a ROS 2 from apt also `ros2 run`).

_instformer_env() {
  local root mode VENV=${VENV:-} _prefixes _prefix
  # shellcheck source=scripts/common.sh
  . "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
  if [ ! -f "$VENV/bin/activate" ] || [ ! -f "$root/install/local_setup.bash" ]; then
    echo "error: $VENV or install/ is missing: run 'make setup' first" >&2
    return 1
  fi
  # shellcheck disable=SC1091
  . "$VENV/bin/activate"
  if [ "$mode" = wheels ]; then
    case :${AMENT_PREFIX_PATH:-}: in
      *:"$VENV":*) ;;
      *) export AMENT_PREFIX_PATH=$VENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH} ;;
    esac
  fi
  # shellcheck disable=SC1091
  . "$root/install/local_setup.bash"
}
_instformer_env
_instformer_status=$?
unset -f _instformer_env
if [ "$_instformer_status" -ne 0 ]; then
  return "$_instformer_status" 2>/dev/null || exit "$_instformer_status"
fi
unset _instformer_status
