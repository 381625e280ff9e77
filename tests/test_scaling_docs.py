"""The recipes of docs/scaling.md: the launchers take their commands, and each does what is said of it, as far as can be told here."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments import launcher, sweep, train

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "scaling.md").read_text()
BASH = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"python -m experiments\.(\w+) ([^\n#]*)", "\n".join(BASH).replace("\\\n", " "))
(JOB,) = (block for block in BASH if "#SBATCH" in block)


def taken(name, words):
    """The flags that ``experiments.name`` reads of ``words``; ConfigError where it refuses one."""
    return launcher.parse("", [name, *words], {"train": train, "sweep": sweep}[name].define)


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_commands_are_taken(monkeypatch, name, line):
    monkeypatch.chdir(ROOT)
    values = taken(name, shlex.split(line))
    assert values.config is not None and (name == "sweep" or values.workdir)
    if name == "sweep":
        sweep._only_where(values)


def test_commands_are_found():
    assert [name for name, _ in COMMANDS] == ["train"] * 4 + ["sweep"] * 2


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (1, False), (137, False)])
def test_the_job_of_slurm_is_queued_again_where_its_run_was_asked_to_stop(tmp_path, status, requeued):
    """With srun and scontrol stood in for; the job's status is the run's."""
    for name, text in {"srun": f"exit {status}", "scontrol": f'echo "$@" > {tmp_path}/asked'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", JOB], env=environment, check=False).returncode == status
    assert (tmp_path / "asked").exists() == requeued and (not requeued or (tmp_path / "asked").read_text() == "requeue 7\n")


def test_the_job_of_kubernetes_names_one_coordinator_and_as_many_processes_as_pods(monkeypatch):
    """The coordinator is the name that JAX gives pod 0 of a Job in its Service: JOB-0.SUBDOMAIN."""
    monkeypatch.chdir(ROOT)
    (text,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    service, job = yaml.safe_load_all(text)
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["kind"] == "Service" and service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    (container,) = pod["containers"]
    command = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in container["command"]]
    assert command[:3] == ["python", "-m", "experiments.train"]
    host, count, index = taken("train", command[3:]).distributed.split(",")
    assert host.rpartition(":")[0] == f"{name}-0.{pod['subdomain']}" and pod["subdomain"] == service["metadata"]["name"]
    assert (int(count), int(index)) == (spec["completions"], 3)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
