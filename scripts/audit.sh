#!/usr/bin/env bash
# make audit: known vulnerabilities of the pinned packages. pip-audit gets a venv of its own, which `make distclean` removes.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
venv=.venv-audit
if [ ! -x "$venv/bin/pip-audit" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install pip-audit==2.10.1 2>/dev/null || {
    echo "audit: pip-audit cannot be installed from here; nothing was audited" >&2
    exit 2
  }
fi
exec "$venv/bin/python" scripts/audit.py
