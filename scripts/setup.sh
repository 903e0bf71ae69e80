#!/usr/bin/env bash
# Makes everything that `make demo` and `make test` need: the venv, the pinned packages, the messages and the nodes.
#
# Safe to run at any time: each step is stamped with a hash of what goes into it, and a step whose stamp holds is left
# out, so that a run with nothing to do takes a fraction of a second. Environment: VENV (the venv's folder), PYTHON (the
# interpreter to make it with), HASHES (1: install only files whose SHA-256 is in requirements-hashes.txt). Where a ROS 2
# is sourced, that one is used: the venv then sees its packages.

set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

packages_stamp=$VENV/.instformer-packages
build_stamp=$root/install/.instformer-build

# --- What each step depends on ---------------------------------------------------------------------------------------

hash_packages() {
  {
    echo "$mode" "$VENV" "$root"
    cat requirements.txt setup.py
    [ "$mode" != wheels ] || cat requirements-ros.txt
    [ "${HASHES:-0}" = 0 ] || cat requirements-hashes.txt
  } | sha256sum | cut -c1-64
}

# The links of --symlink-install make edits of Python, launch and config files live, so of those only the names count.
hash_build() {
  {
    hash_packages
    cat CMakeLists.txt package.xml cmake/* msg/* srv/*
    { find config cmake instformer_ros launch models msg srv -type f ! -name '*.pyc' 2>/dev/null || true; } | LC_ALL=C sort
  } | sha256sum | cut -c1-64
}

holds() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# --- Showing what goes on --------------------------------------------------------------------------------------------

# step TITLE LOG COMMAND...: runs the command into the log; shows how it goes on; on failure, the log's end
step() {
  local title=$1 log=$2 start=$SECONDS last=0 pid status=0 line
  shift 2
  echo "$title ..."
  set -m # a process group of its own, so that Ctrl-C can end all of it
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  set +m
  # shellcheck disable=SC2064
  trap "kill -- -$pid 2>/dev/null; echo; exit 130" INT TERM HUP
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    [ -t 1 ] || [ $((SECONDS - start - last)) -ge 10 ] || continue
    last=$((SECONDS - start))
    line="  $last s$(grown)  $(tail -n 1 "$log" | tr -dc '[:print:]' | cut -c1-70)"
    if [ -t 1 ]; then printf '\r%s\033[K' "$line"; else echo "$line"; fi
  done
  wait "$pid" || status=$?
  trap - INT TERM HUP
  [ ! -t 1 ] || printf '\r\033[K'
  if [ "$status" -ne 0 ]; then
    tail -n 30 "$log" >&2
    fail "$title: failed with code $status; the whole log is $log"
  fi
  echo "  done in $((SECONDS - start)) s"
}

# How much the disk has filled since free_before was noted. Asking the disk is instant; counting a venv's files is not.
grown() {
  [ -n "$free_before" ] || return 0
  awk -v kib=$((free_before - $(free_space))) 'BEGIN { printf ", %.1f GB", (kib > 0 ? kib : 0) / 1048576 }'
}

free_space() { df --output=avail -k "$VENV" | tail -n 1; }

# --- Steps -----------------------------------------------------------------------------------------------------------

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

# The interpreter for the venv: for a sourced ROS 2 the one that its rclpy was built for.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.12 python3.11 python3.13}; do
    suits "$candidate" || continue
    [ "$mode" = wheels ] || "$candidate" -c 'import rclpy' >/dev/null 2>&1 || continue
    command -v "$candidate"
    return
  done
  if [ "$mode" = wheels ]; then
    fail "no Python 3.11, 3.12 or 3.13 is found: install one, or name it as in: make PYTHON=/path/to/python3.12"
  fi
  fail "ROS 2 '$mode' is sourced, but no Python 3.11-3.13 can import its rclpy: name it as in: make PYTHON=/usr/bin/python3"
}

check_tools() {
  local missing=() headers
  command -v cmake >/dev/null || missing+=(cmake)
  command -v g++ >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  headers=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [ -f "$headers/Python.h" ] || missing+=("python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-dev")
  "$1" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  if [ "$mode" != wheels ] && ! command -v colcon >/dev/null; then missing+=(python3-colcon-common-extensions); fi
  [ ${#missing[@]} -eq 0 ] || fail "missing on this machine: sudo apt install ${missing[*]}"
}

make_venv() {
  if [ -x "$VENV/bin/python" ]; then
    suits "$VENV/bin/python" || fail "$VENV holds no working Python 3.11-3.13: remove it (rm -r $VENV) and run this again"
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
    return
  fi
  echo "Making $VENV with $($1 --version)"
  if [ "$mode" = wheels ]; then "$1" -m venv "$VENV"; else "$1" -m venv --system-site-packages "$VENV"; fi
}

install_packages() {
  local pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input)
  # Older set-ups had OpenCV under another name; both put their files in the same folder.
  if [ -d "$(echo "$VENV"/lib/python3*/site-packages)" ] &&
    compgen -G "$VENV/lib/python3*/site-packages/opencv_python-*.dist-info" >/dev/null; then
    "${pip[@]}" uninstall -y opencv-python
    "${pip[@]}" uninstall -y opencv-python-headless
  fi
  local lists=(requirements.txt) options
  [ "$mode" != wheels ] || lists+=(requirements-ros.txt)
  options=("${lists[@]/#/--requirement=}")
  if [ "${HASHES:-0}" != 0 ]; then
    # Of the names in the lists. What is installed already is installed again, since pip would not look at its files.
    cat "${lists[@]}" | awk '
      NR == FNR { if (/^[a-z]/) wanted[$1]; next }
      /^[a-z]/ { take = $1 in wanted }
      take' - requirements-hashes.txt >log/setup-hashes.txt
    options=(--require-hashes --force-reinstall -r log/setup-hashes.txt)
  fi
  "${pip[@]}" install --no-deps --progress-bar off "${options[@]}"
  "${pip[@]}" install --no-deps --no-build-isolation --progress-bar off -e .
}

build_package() {
  # What an earlier run of this script left is built upon. Anything else (a plain install, another venv, another place)
  # does not mix with it.
  if [ "$(cat install/.instformer-kind 2>/dev/null)" != "$mode $VENV $root" ]; then rm -rf build/instformer_ros install; fi
  mkdir -p install
  echo "$mode $VENV $root" >install/.instformer-kind
  find install -xtype l -delete # links to files that are no more
  export VIRTUAL_ENV=$VENV PATH=$VENV/bin:$PATH
  [ "$mode" != wheels ] || export AMENT_PREFIX_PATH=$VENV
  colcon --log-base log build --base-paths . --symlink-install \
    --event-handlers console_direct+ --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$VENV/bin/python"
}

# --- The way through -------------------------------------------------------------------------------------------------

packages=$(hash_packages)
build=$(hash_build)
if holds "$packages_stamp" "$packages" && holds "$build_stamp" "$build"; then exit 0; fi

# Two at once (make demo beside make test) would build into each other: the second waits, then finds the work done.
mkdir -p log
exec 9>"$root/log/.instformer-setup.lock"
if ! flock -n 9; then
  echo "Another set-up of this tree is running: waiting for it"
  flock 9
fi

if ! holds "$packages_stamp" "$packages"; then
  python=$(find_python)
  check_tools "$python"
  make_venv "$python"
  free_before=$(free_space)
  step "Installing the pinned packages (about 6 GB, mostly torch)" log/setup-packages.log install_packages
  echo "$packages" >"$packages_stamp"
fi
if ! holds "$build_stamp" "$build"; then
  free_before=""
  step "Building the messages and nodes" log/setup-build.log build_package
  echo "$build" >"$build_stamp"
fi
