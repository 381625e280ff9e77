"""Makes the project's virtual environment: python tools/make_venv.py VENV CONSTRAINTS [EXTRAS].

The standard library alone.  Prints a progress line every few seconds and nothing else; pip's own words go to VENV/pip.log.  Ends with
exit status 1 and one line that says what to try if anything fails, with 2 for a Python that is not supported.  VENV/.installed is
written last: it is what `make` compares with setup.py and the constraints.
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
    sys.stderr.write("make venv: " + " ".join(message.split()) + "\n")
    raise SystemExit(status)


def check_version(version):
    """Exits with 2 and one line if this Python's (major, minor) was not tried."""
    if tuple(version) not in SUPPORTED:
        tried = ", ".join("%d.%d" % v for v in SUPPORTED)
        fail("Python %d.%d is not supported; allowed: %s; try: make digits PYTHON=python3.12" % (version[0], version[1], tried), 2)


def wanted(constraints):
    """How many packages the constraints file names: the 'of 90' in the progress line (an upper bound: some are for extras)."""
    with open(constraints) as lines:
        return sum(1 for line in lines if "==" in line)


def progress(line, state):
    """Folds one line of pip's output into ``state``: how many packages were found, and what it is doing."""
    found = re.match(r"(Collecting|Obtaining|Requirement already satisfied:) (\S+)", line)
    download = re.match(r"\s*(?:Downloading|Using cached) (\S+) \((.+)\)", line)
    if found:
        state["found"] += 1
    if download:
        state["doing"] = "fetching %s (%s)" % (download.group(1).split("/")[-1].split("-cp")[0].split("-py")[0], download.group(2))
    elif line.startswith("Installing collected packages"):
        state["doing"] = "unpacking %d packages" % (line.count(",") + 1)
    elif line.startswith("ERROR"):
        state["errors"].append(line[6:].strip())


def follow(process, log, total):
    """Prints a line every PERIOD seconds until pip has ended; returns its exit status and its error lines."""
    lines, start, said = queue.Queue(), time.time(), 0.0
    state = {"found": 0, "doing": "looking for packages", "errors": []}

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=PERIOD)
        except queue.Empty:
            line = ""
        if line is None:
            return process.wait(), state["errors"]
        log.write(line)
        progress(line, state)
        if time.time() - said > PERIOD:
            said = time.time()
            print("  %4.0f s  %d of about %d packages found, %s" % (said - start, min(state["found"], total), total, state["doing"]), flush=True)


def make(venv, constraints, extras):
    """A fresh virtual environment at ``venv`` (an unfinished one is made anew) with this project and ``extras`` in it."""
    if not os.path.exists(constraints):
        fail("%s is not there; allowed: a constraints file such as constraints/py311.txt" % constraints, 2)
    stamp = os.path.join(venv, ".installed")
    if not os.path.exists(stamp):
        shutil.rmtree(venv, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", venv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if made.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            said = (made.stdout.strip().splitlines() or ["no word"])[-1]
            fail("python -m venv failed (%s); try: install your system's python3-venv package, or another PYTHON=" % said)
    else:
        os.remove(stamp)
    print("making %s with Python %d.%d: 1 to 4 minutes, about 1.2 GB" % ((venv,) + sys.version_info[:2]), flush=True)
    start, log_name = time.time(), os.path.join(venv, "pip.log")
    python = os.path.join(venv, "bin", "python")
    command = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-e", extras, "-c", constraints]
    with open(log_name, "w") as log:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        status, errors = follow(pip, log, wanted(constraints))
    if status:
        why = errors[0] if errors else "pip ended with %d" % status
        fail("%s; try: the same command again when the network is there; if it stays, read %s" % (why, log_name))
    with open(stamp, "w") as done:
        done.write("%s %s\n" % (extras, constraints))
    print("  %4.0f s  done" % (time.time() - start), flush=True)


if __name__ == "__main__":
    check_version(sys.version_info[:2])
    if len(sys.argv) not in (3, 4):
        fail("%r is refused; allowed: VENV CONSTRAINTS [EXTRAS]" % (sys.argv[1:],), 2)
    make(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else ".[dev]")
