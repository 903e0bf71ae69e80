"""Known vulnerabilities of the pinned packages, as pip-audit finds them in PyPI's database: ``make audit``.

pip-audit says "none" as well where it could look up nothing: a mirror without PyPI's JSON pages, say. Here that is told
apart. Exit code 0: all were looked up, and nothing is known; 1: something is; 2: not all could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_LIST = Path(__file__).resolve().parents[1] / "requirements-hashes.txt"


def summary(report: dict[str, Any] | None) -> tuple[str, int]:
    """What to say of pip-audit's JSON (None: there is none), and the exit code."""
    packages = report["dependencies"] if report else []
    looked_up = [package for package in packages if "skip_reason" not in package]
    if not looked_up:
        return "audit: the database of vulnerabilities cannot be reached from here; nothing was audited", 2
    lines = [
        f"{package['name']} {package['version']}: {', '.join([found['id'], *found.get('aliases', ())])}; mended in "
        f"{', '.join(found.get('fix_versions') or ['no version yet'])}"
        for package in looked_up
        for found in package["vulns"]
    ]
    left_out = [package["name"] for package in packages if "skip_reason" in package]
    if left_out:
        lines.append(f"not looked up: {', '.join(left_out)}")
    known = sum(bool(package["vulns"]) for package in looked_up)
    lines.append(f"audit: {len(looked_up)} of {len(packages)} packages looked up, {known} with known vulnerabilities")
    return "\n".join(lines), 1 if known else 2 if left_out else 0


def main() -> int:
    """Runs pip-audit; returns the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(_LIST), "--require-hashes", "--disable-pip"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "20"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = None
    text, code = summary(report)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
