"""Makes the project's virtual environment: python tools/make_venv.py VENV CONSTRAINTS [REQUIREMENT].

The standard library alone.  Prints a progress line every few seconds and nothing else; pip's own words go to VENV/pip.log.  What fails
ends it with one line that says what to try: exit status 1, or 2 for a Python that is not supported.  VENV/.installed is written last:
it is what `make` compares with setup.py and the constraints.
"""

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time

SUPPORTED = ((3, 11), (3, 12), (3, 13))
PERIOD = 4.0
"""Seconds between two progress lines."""


def fail(message, status=1):
    """Prints one line and exits."""
    sys.stderr.write(f"make venv: {' '.join(message.split())}\n")
    raise SystemExit(status)


def check_version(version):
    """Exits with 2 and one line if this Python's (major, minor) was not tried."""
    if tuple(version) not in SUPPORTED:
        tried = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        fail(f"Python {version[0]}.{version[1]} is not supported; allowed: {tried}; try: make digits PYTHON=python3.12", 2)


def wanted(constraints):
    """How many packages the constraints file names: the 'of 90' of the progress line."""
    with open(constraints) as lines:
        return sum("==" in line for line in lines)


def fold(line, state):
    """Adds one line of pip's output to ``state``: how many packages were found, what it is doing, what it complained of."""
    download = re.match(r"\s*(?:Downloading|Using cached) (\S+) \((.+)\)", line)
    if re.match(r"(Collecting|Obtaining|Requirement already satisfied:) ", line):
        state["found"] += 1
    if download:
        name = re.split(r"-(?:cp|py)\d", download.group(1).split("/")[-1])[0]
        state["doing"] = f"fetching {name} ({download.group(2)})"
    elif line.startswith("Installing collected packages"):
        state["doing"] = f"unpacking {line.count(',') + 1} packages"
    elif line.strip().startswith("ERROR:"):
        state["errors"].append(line.strip()[6:].strip())


def follow(process, log, total):
    """Logs what pip says and prints a line every PERIOD seconds until it has ended; returns its exit status and its error lines."""
    lines, start, said = queue.Queue(), time.time(), time.time()
    state = {"found": 0, "doing": "looking for packages", "errors": []}

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            line = ""
        if line is None:
            return process.wait(), state["errors"]
        log.write(line)
        fold(line, state)
        if time.time() - said > PERIOD:
            said = time.time()
            print(f"  {said - start:4.0f} s  {min(state['found'], total)} of {total} packages found, {state['doing']}", flush=True)


def empty(venv):
    """A fresh virtual environment with pip and nothing else."""
    shutil.rmtree(venv, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", venv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        said = (made.stdout.strip().splitlines() or ["it said nothing"])[0]
        fail(f"python -m venv failed ({said}); try: install your system's python3-venv package, or another PYTHON=")


def install(venv, constraints, requirement):
    """Installs ``requirement`` (editable) into ``venv`` at the versions of ``constraints``."""
    log_name = os.path.join(venv, "pip.log")
    command = [os.path.join(venv, "bin", "python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    # a path that Python searches, and not a finder: that would lose to a folder of the package's name, a clone, where one happens to be
    command += ["--config-settings", "editable_mode=compat"]
    command += ["--progress-bar", "off", "-c", constraints, "-e", requirement]
    with open(log_name, "w") as log:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        status, errors = follow(pip, log, wanted(constraints))
    if status:
        why = errors[0] if errors else f"pip ended with {status}"
        fail(f"{why}; try: the same command when the network is there; if it stays, read {log_name}")


def make(venv, constraints, requirement):
    """Brings ``venv`` up to date; one that was left unfinished is made anew."""
    if not os.path.exists(constraints):
        fail(f"{constraints} is not there; allowed: one of the files in constraints/", 2)
    stamp, start = os.path.join(venv, ".installed"), time.time()
    print(f"{venv}: installing for Python {sys.version_info[0]}.{sys.version_info[1]}, 1 to 4 minutes, about 1.2 GB", flush=True)
    if os.path.exists(stamp):
        os.remove(stamp)
    else:
        empty(venv)
    install(venv, constraints, requirement)
    with open(stamp, "w") as done:
        done.write(f"{requirement} {constraints}\n")
    print(f"  {time.time() - start:4.0f} s  installed", flush=True)


if __name__ == "__main__":
    check_version(sys.version_info[:2])
    if len(sys.argv) not in (3, 4):
        fail(f"{sys.argv[1:]} is refused; allowed: VENV CONSTRAINTS [REQUIREMENT]", 2)
    try:
        make(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else ".[dev]")
    except KeyboardInterrupt:
        fail("stopped; the same command starts again", 130)
