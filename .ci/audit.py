"""Known vulnerabilities in the pinned packages, by pip-audit and the OSV database; skipped where that does not answer.

Exit status 1: there are some. `make audit` runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
ANSWER_SECONDS, AUDIT_SECONDS = 4, 300


def answers() -> bool:
    """Return whether the database answers anything at all."""
    try:
        urllib.request.urlopen(URL, data=b"{}", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:  # an empty question is none
        return True
    except OSError:
        return False
    return True


def run(*command: str | Path) -> int:
    """Run a command without its output, and return its exit status. `SubprocessError`: it takes too long."""
    nothing = subprocess.DEVNULL
    return subprocess.run(command, stdout=nothing, stderr=nothing, timeout=AUDIT_SECONDS, check=False).returncode


def audit(folder: Path) -> list[dict]:
    """Return the packages that have known vulnerabilities. `OSError` or `SubprocessError`: it could not be asked."""
    python, found = folder / "venv" / "bin" / "python", folder / "found.json"
    run(sys.executable, "-m", "venv", folder / "venv")
    run(python, "-m", "pip", "install", "--disable-pip-version-check", "pip-audit")
    source = ("--requirement", "constraints.txt", "--no-deps", "--disable-pip")
    service = ("--vulnerability-service", "osv", "--osv-url", URL, "--progress-spinner", "off")
    run(python, "-m", "pip_audit", *source, *service, "--format", "json", "--output", found)
    return [package for package in json.loads(found.read_text())["dependencies"] if package.get("vulns")]


def main() -> int:
    """Audit, and say in a line what came of it."""
    if not answers():
        print(f"audit: skipped, as {URL} does not answer")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = audit(Path(folder))
        except (OSError, subprocess.SubprocessError) as error:
            print(f"audit: skipped ({' '.join(str(error).split())})")
            return 0
    for package in found:
        names = ", ".join(vulnerability["id"] for vulnerability in package["vulns"])
        print(f"audit: {package['name']} {package['version']}: {names}")
    print(f"audit: {len(found)} of the pinned packages have known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
