# Sourced by setup.sh and env.sh: where things are. Sets root, mode, VENV, and defines fail.
#
# mode is "wheels" (ROS 2 from PyPI inside the venv) or the name of the ROS 2 that is sourced, such as "jazzy".

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A ROS 2 counts as sourced if rclpy lies in a prefix outside this tree and outside the active venv, so that this
# package's own environment (scripts/env.sh) is not taken for one.
mode=wheels
IFS=: read -r -a _prefixes <<<"${AMENT_PREFIX_PATH:-}"
for _prefix in ${_prefixes[@]+"${_prefixes[@]}"}; do
  case $_prefix/ in
    "$root"/* | "${VIRTUAL_ENV:-/none}"/ | "${VENV:-/none}"/) continue ;;
  esac
  if [ -d "$_prefix/share/rclpy" ]; then
    mode=${ROS_DISTRO:-ros}
    break
  fi
done

# Each mode has a venv of its own, so that changing from one to the other breaks neither.
if [ -z "${VENV:-}" ]; then
  [ "$mode" = wheels ] && VENV=.venv || VENV=.venv-$mode
fi
case $VENV in
  /*) ;;
  *) VENV=$root/$VENV ;;
esac
