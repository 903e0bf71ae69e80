#!/usr/bin/env bash
# Runs one command in the environment of scripts/env.sh: scripts/run.sh python -c 'import instformer_ros.msg'
# shellcheck source=scripts/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh" || exit 1
exec "$@"
