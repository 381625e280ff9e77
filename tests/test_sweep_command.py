"""experiments.sweep: the grid in words, its refusals, requeuing, the table; with local submitit, one of four runs killed on the way."""

import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import network_guard
import pytest

from experiments import compiled, launcher, sweep, sweep_queue
from experiments.sweep_parts import Job, cells_of, ends_of, parse_grid, rows_of, table, write_tables
from score_lab.build import ConfigError
from score_lab.training import train
from score_lab.training.lock import Lock
from score_lab.training.seals import seal

with contextlib.suppress(ImportError):
    import submitit  # noqa: F401 - not within a test: it configures logging, which closes what absl writes to where that is no longer stderr

ROOT = Path(__file__).resolve().parent.parent
TOY = ["--config=configs/toy.py:moons", *"""--config.data.num_train=100 --config.data.num_test=40 --config.data.batch_size=16
    --config.network.width=8 --config.network.depth=1 --config.optimizer.warmup=5 --config.training.steps=60 --config.training.log_every=10
    --config.training.eval_every=20 --config.training.eval_levels=2 --config.training.checkpoint_every=10""".split()]  # fmt: skip


def said(monkeypatch, capsys, *words):
    """(status, stdout, stderr) of ``python -m experiments.sweep WORDS``."""
    monkeypatch.setattr(sys, "argv", ["sweep", *words])
    with pytest.raises(SystemExit) as caught:
        launcher.launch(sweep.main)
    return caught.value.code, *capsys.readouterr()


def finish(workdir, steps=20, at=None):
    """The files of a run that has come to ``at`` of ``steps``."""
    checkpoint = workdir / "checkpoints" / str(at or steps)
    checkpoint.mkdir(parents=True)
    (checkpoint / "arrays").write_text("1234")
    (workdir / "seals").mkdir()
    seal(checkpoint, workdir / "seals" / f"{checkpoint.name}.json")
    record = {"config": {"training": {"steps": steps}}, "data": {}, "sigma_data": 1.0, "versions": {}}
    (workdir / "config.json").write_text(json.dumps(record))
    lines = [{"step": 10, "loss": 0.5, "eval/loss": 0.25}, {"step": 20, "loss": 0.125, "eval/loss": 0.75}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_grid_in_words():
    grid = parse_grid(" config.a.x=1e-3,3e-3; config.seed = 0, 1;config.path=VP(beta_max=10,beta_min=0.1),EDM;")
    assert grid == {"config.a.x": ["1e-3", "3e-3"], "config.seed": ["0", "1"], "config.path": ["VP(beta_max=10,beta_min=0.1)", "EDM"]}


@pytest.mark.parametrize(
    "grid, message",
    [
        ("", "at least one field"),
        ("config.seed=", "at least one value: config.seed=VALUE"),
        ("config.seed", "at least one value"),
        ("seed=0,1", "did you mean 'config.seed'?"),
        ("config.seed=0; config.seed=1", "every field once: config.seed"),
        ("config.seed=0,1,0", "every value once: 0 is there twice"),
        ("config.optimizer.learning_rate=1e-3,0.001", "every value once: 0.001"),
        ("config.path=VP(,EDM", "as many closing as opening brackets"),
        ("config.optimizer.lerning_rate=1e-3", "config.optimizer.lerning_rate"),
        ("config.optimiser.learning_rate=1e-3", "config.optimiser"),
        ("config.seed=0; config.optimizer.learning_rate=1e-3,-1", "config.optimizer.learning_rate: -1"),
        ("config.network.width=16,wide", "config.network.width"),
        ("config.sampling.sampler=Heun,Hoin", "sampling.sampler"),
        ("config.data.batch_size=16,0", "config.data.batch_size"),
    ],
)
def test_a_bad_grid_is_one_line_and_nothing_is_begun(tmp_path, monkeypatch, capsys, grid, message):
    monkeypatch.chdir(ROOT)
    status, out, err = said(monkeypatch, capsys, *TOY, f"--output={tmp_path / 'out'}", f"--grid={grid}")
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def no_srun(*_, **__):
    raise RuntimeError('Could not detect "srun", are you indeed on a slurm cluster?')  # submitit's words


@pytest.mark.parametrize(
    "words, message",
    [
        (["--grid=config.seed=0"], "--output"),
        (["--output=OUT"], "--grid"),
        (["--output=", "--grid=config.seed=0"], "--output: '' is refused"),
        (["--output=OUT", "--grid=config.seed=0", "--config.seed=1"], "fields that the command line does not set: --config.seed=1"),
        (["--output=OUT", "--grid=config.seed=0", "--partition=gpu"], "--partition: 'gpu' is refused; allowed: none with --cluster=local"),
        (["--output=OUT", "--grid=config.seed=0", "--cluster=slurm", "--slurm=account"], "--slurm: 'account'"),
        (["--output=OUT", "--grid=config.seed=0", "--cluster=slurm"], "slurm where its commands are"),
        (["--output=OUT", "--grid=config.seed=0", "--cluster=lokal"], "lokal"),
        (["--output=OUT", "--grid=config.seed=0", "--jobs=0"], "jobs"),
        (["--output=OUT", "--grid=config.seed=0", "--retrys=1"], "retrys"),
        (["--output=README.md", "--grid=config.seed=0"], "--output: 'README.md' is refused"),
    ],
)
def test_refused(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no srun
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(SlurmExecutor=no_srun))  # whether or not it is installed
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    status, out, err = said(monkeypatch, capsys, *TOY, *words)
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(sys.modules, "submitit", None)
    status, _, err = said(monkeypatch, capsys, *TOY, f"--output={tmp_path / 'out'}", "--grid=config.seed=0")
    assert status == 2 and err.count("\n") == 1 and "pip install 'score-lab[sweep]'" in err


def test_names_say_what_differs(tmp_path):
    """Every field of the grid by the fewest of its last parts, each name once and fit for a folder; the last field is the fastest."""
    cells = cells_of(parse_grid("config.optimizer.learning_rate=1e-3,3e-3;config.seed=0,1"), ["--config=f.py:x"], tmp_path)
    names = ["learning_rate=1e-3_seed=0", "learning_rate=1e-3_seed=1", "learning_rate=3e-3_seed=0", "learning_rate=3e-3_seed=1"]
    assert [cell.name for cell in cells] == names and [cell.workdir for cell in cells] == [tmp_path / name for name in names]
    told = ["--config=f.py:x", "--config.optimizer.learning_rate=1e-3", "--config.seed=1", f"--workdir={tmp_path / names[1]}"]
    assert shlex.split(cells[1].command) == ["python", "-m", "experiments.train", *told]
    (cell,) = cells_of(parse_grid("config.seed=1;config.sampling.seed=2"), [], tmp_path)
    assert cell.name == "seed=1_sampling.seed=2"
    paths = [cell.name for cell in cells_of(parse_grid("config.data.path=a/b,a:b," + "x" * 300), [], tmp_path)]
    assert len(set(paths)) == 3 and not any("/" in name or ":" in name or len(name) > 140 for name in paths)
    assert paths == [cell.name for cell in cells_of(parse_grid("config.data.path=a/b,a:b," + "x" * 300), [], tmp_path)]


def test_the_table_of_what_lies_there(tmp_path):
    """From the files alone: a finished run, one that stopped, one that was given up, one that never began."""
    cells = cells_of(parse_grid("config.seed=0,1,2,3"), ["--config=f.py"], tmp_path)
    finish(cells[0].workdir)
    finish(cells[1].workdir, at=10)
    ends = tmp_path / "jobs"
    ends.mkdir()
    told = [{"status": -9, "seconds": 1.5, "requeued": False}, {"status": 0, "seconds": 2.25, "requeued": False}]
    (ends / "seed=0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    rows = rows_of(cells, {"seed=2": "killed by SIGKILL"}, ends)
    write_tables(rows, tmp_path)
    read = json.loads((tmp_path / "table.json").read_text())
    assert [row["state"] for row in read] == ["finished", "stopped", "failed", "waiting"]
    figures = {"step": 20, "steps": 20, "best": 0.25, "best_step": 10, "loss": 0.125, "seconds": 3.75, "jobs": 2}
    where = {"why": "", "workdir": str(tmp_path / "seed=0"), "command": cells[0].command}
    assert read[0] == {"values": {"config.seed": "0"}, "state": "finished", **figures, **where}
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["config.seed"] for line in lines] == list("0123") and lines[2]["why"] == "killed by SIGKILL" and lines[3]["best"] == ""
    text = table(rows).splitlines()
    assert text[0].split()[:3] == ["seed", "state", "step"] and text[1].split()[:9] == "0 finished 20/20 0.2500 at 10 0.1250 4 2".split()
    assert len(text) == 5 and text[3].endswith("killed by SIGKILL") and max(map(len, text)) < 120
    assert "experiments.train" not in table(rows) and [line["command"] for line in lines] == [cell.command for cell in cells]


class Played:
    """In place of submitit's executor: what becomes of each job is told beforehand, by name of the cell, and happens at once."""

    def __init__(self, folder, **story):
        self.folder, self.story, self.submitted = folder, story, []

    def submit(self, job):
        name = job.ends.stem
        self.submitted.append(name)
        status, state = self.story[name.replace("=", "")].pop(0), "FINISHED"
        if isinstance(status, str):  # what sacct says of a job that told nothing
            status, state = None, status
        err = self.folder / f"{len(self.submitted)}.err"
        self.folder.mkdir(parents=True, exist_ok=True)
        err.write_text("a warning\nerror: loss: it is NaN\n" if status else "")
        if status is not None:
            with job.ends.open("a") as file:
                file.write(json.dumps({"status": status, "seconds": 1.0, "requeued": False}) + "\n")
        if status == 0:
            finish(self.folder.parent / name)
        return SimpleNamespace(job_id="1", done=lambda: True, state=state, paths=SimpleNamespace(stderr=err))


def played(output, retries=1, cells=4, **story):
    values = SimpleNamespace(cluster="debug", jobs=2, retries=retries, gpus=None)
    cells = cells_of(parse_grid(f"config.seed={','.join(map(str, range(cells)))}"), ["--config=f.py"], output)
    executor = Played(output / "jobs", **story)
    return sweep_queue.Sweep(values, executor, cells, {cell.name: 20 for cell in cells}, output), executor


def test_what_dies_is_queued_again_and_given_up_in_the_end(tmp_path, capsys):
    """One dies once, one without a word once more than it may, one is refused and would be again; the others are not held up."""
    one, executor = played(tmp_path, seed0=[0], seed1=[-9, 0], seed2=[None, 1], seed3=[2])
    one.run()
    assert one.tell() == 1
    assert sorted(executor.submitted) == ["seed=0", "seed=1", "seed=1", "seed=2", "seed=2", "seed=3"]
    assert one.failed == {"seed=2": "exit status 1: loss: it is NaN", "seed=3": "exit status 2: loss: it is NaN"}
    out = capsys.readouterr().out
    assert "seed=1: killed by SIGKILL; queued again (1 of 1)" in out and "seed=2: its job ended without a word (FINISHED)" in out
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [(row["state"], row["jobs"]) for row in rows] == [("finished", 1), ("finished", 2), ("failed", 1), ("failed", 1)]


def test_a_preempted_job_is_no_death_and_a_cancelled_one_is_what_the_user_wanted(tmp_path, monkeypatch, capsys):
    """On Slurm, where sacct says PREEMPTED of a job that was cancelled for another, and submitit would wait for it."""
    pytest.importorskip("submitit")
    one, executor = played(tmp_path, retries=0, cells=2, seed0=["PREEMPTED", "PREEMPTED", 0], seed1=["CANCELLED by 0"])
    one.values.cluster, executor.update_parameters = "slurm", lambda job_name: None
    monkeypatch.setitem(sweep_queue.LOOK, "slurm", 0.0)
    monkeypatch.setattr(sweep_queue.Sweep, "queued", lambda self, cell: None)
    submit = executor.submit
    monkeypatch.setattr(executor, "submit", lambda job: SimpleNamespace(**vars(submit(job)), exception=lambda: None))
    one.run()
    assert executor.submitted == ["seed=0", "seed=1", "seed=0", "seed=0"]
    assert set(one.failed) == {"seed=1"} and one.failed["seed=1"].startswith("its job was cancelled")
    assert one.tries == {"seed=0": 0, "seed=1": 0} and capsys.readouterr().out.count("seed=0: preempted") == 2


def test_what_is_done_is_not_run_again_and_more_steps_are(tmp_path, capsys):
    for seed in range(4):
        finish(tmp_path / f"seed={seed}")
    one, executor = played(tmp_path, seed2=[0])
    one.steps["seed=2"] = 40
    assert [one.done(cell) for cell in one.cells] == [True, True, False, True]
    again, executor = played(tmp_path)
    again.run()
    assert executor.submitted == [] and again.tell() == 0 and capsys.readouterr().out.startswith("4 of 4 cells are done already")


def test_a_cell_that_another_process_is_at_is_waited_for(tmp_path, capsys):
    """And then is what it has become: here the run that was waited for was killed, so that it is begun."""
    one, executor = played(tmp_path, cells=1, seed0=[0])
    with Lock(tmp_path / "seed=0"):
        one.start(one.queue.pop())
        (active,) = one.active
        assert executor.submitted == [] and not one.ended(active) and f"waits for process {os.getpid()} on" in capsys.readouterr().out
    assert one.ended(active)
    one.run()
    assert executor.submitted == ["seed=0"] and one.tell() == 0 and one.tries == {"seed=0": 0}


@pytest.fixture
def long_run(tmp_path, monkeypatch):
    """``Job`` runs a program in place of python that saves when SIGTERM comes: ``long_run(how it ends)``."""
    program = tmp_path / "program"

    def job(end):
        program.write_text(f"#!/bin/bash\ntrap 'echo saved >> {tmp_path}/saved; exit 143' TERM\necho \"$@\" > {tmp_path}/words\n{end}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return Job(["--workdir=w"], tmp_path / "jobs" / "w.jsonl")

    return job


def test_a_job_tells_how_its_run_ended(long_run, tmp_path):
    assert long_run("exit 3")() == 3 and long_run("kill -9 $$")() == -9 and long_run("exit 0")() == 0
    assert [end["status"] for end in ends_of(tmp_path / "jobs" / "w.jsonl")] == [3, -9, 0]
    assert (tmp_path / "words").read_text() == "-m experiments.train --workdir=w\n"


def test_a_checkpoint_lets_the_run_save_once_and_is_the_same_job(long_run, tmp_path):
    """As submitit calls it: from a signal's handler inside the job, which ends there."""
    pytest.importorskip("submitit")
    job, made = long_run("while :; do sleep 0.05; done"), []

    def preempted(*_):
        made.append(job.checkpoint())
        raise SystemExit

    def soon():
        while job._child is None or not (tmp_path / "words").exists():  # the job knows its run, and the run hears a signal
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, preempted)
    try:
        threading.Thread(target=soon).start()
        with pytest.raises(SystemExit):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    (end,) = ends_of(tmp_path / "jobs" / "w.jsonl")
    assert (end["status"], end["requeued"]) == (143, True) and (tmp_path / "saved").read_text() == "saved\n"
    assert made[0].function.words == job.words and made[0].function.ends == job.ends


def test_the_signal_of_submitit_is_not_for_the_run(long_run):
    """SIGUSR2 to every process of a job, as Slurm's proctrack/linuxproc sends it."""
    assert long_run("kill -USR2 $$")() == 0


@pytest.mark.parametrize(
    ("state", "requeue", "asked", "left"),
    [("RUNNING", 0, True, True), ("RUNNING", 1, True, False), ("COMPLETING", 0, False, True), ("CANCELLED", 0, False, True)],
)
def test_a_job_of_slurm_that_is_told_to_stop_ends_once_its_run_has_saved(long_run, tmp_path, monkeypatch, state, requeue, asked, left):
    """Preempted with a grace period it still counts as running: it is queued again.  Otherwise Slurm has decided already.  Its end is no
    result, but for a job that may not be queued again (--no-requeue)."""
    said = f"echo JobState={state} Reason=None" if state else ""
    shown = f'#!/bin/bash\nif [ "$1" = requeue ]; then echo "$2" >> {tmp_path}/requeued; exit {requeue}; fi\n{said}\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(shown)
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    for name, value in {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    job = long_run("while :; do sleep 0.05; done")

    def soon():
        while not (tmp_path / "words").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=soon).start()
    if left:
        with pytest.raises(SystemExit) as ended:
            job()
        assert ended.value.code == 143
    else:
        assert job() == 143
    (end,) = ends_of(tmp_path / "jobs" / "w.jsonl")
    assert (end["status"], end["requeued"]) == (143, left) and (tmp_path / "saved").read_text() == "saved\n"
    assert (tmp_path / "requeued").exists() == asked


SLURM = {
    "srun": "exit 0",
    "squeue": "cat {home}/queue",
    "sbatch": 'cp "$1" {home}/script; echo Submitted batch job 7',
    "sacct": "echo 'JobID|State|NodeList'; echo '7|PENDING|None assigned'",
}


def test_slurm_is_asked_for_what_was_said_and_its_jobs_are_found_again(tmp_path, monkeypatch):
    """Of programs of Slurm's names: what sbatch is handed, and that a second command does not submit what is in the queue."""
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text.replace("{home}", str(tmp_path)) + "\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    output = tmp_path / "out"
    words = "--grid=config.seed=0 --cluster=slurm --partition=gpu --gpus=2 --cpus=8 --time=90 --slurm=account=ours"
    values = launcher.parse("", ["sweep", *words.split()], sweep.define)
    cells = cells_of(parse_grid(values.grid), ["--config=f.py"], output)
    for k in range(2):
        one = sweep_queue.Sweep(values, sweep.executor_of(values, output / "jobs"), cells, {"seed=0": 20}, output)
        one.start(one.queue.pop())
        assert one.active[0].job.job_id == "7" and not one.ended(one.active[0])
        if k == 0:
            script = (tmp_path / "script").read_text()
            (tmp_path / "script").unlink()
    assert not (tmp_path / "script").exists()
    for state, queue, ended in (("PENDING", "", False), ("PREEMPTED", "7", False), ("PREEMPTED", "", True), ("FAILED", "", True)):
        (tmp_path / "bin" / "sacct").write_text(f"#!/bin/bash\necho 'JobID|State|NodeList'; echo '7|{state}|None assigned'\n")
        (tmp_path / "queue").write_text(queue)
        one.active[0].job.watcher.clear()
        assert one.ended(one.active[0]) == ended
        assert (one.queued(cells[0]) is None) == ended
    asked = ("partition=gpu", "gpus-per-node=2", "cpus-per-task=8", "time=90", "account=ours", "signal=USR2@120")
    for line in ("requeue", "job-name=seed=0", *asked):
        assert f"#SBATCH --{line}\n" in script


def test_cells_go_on_with_what_they_are_allowed(tmp_path):
    """``--allow`` is handed on; without it the first cell whose run had another value is named, and nothing is begun."""
    short = [*TOY, "--config.training.steps=4", "--config.optimizer.warmup=1", "--config.training.eval_every=0"]
    train(launcher.parse("", ["train", *short, "--config.seed=0"], lambda values: None).config, tmp_path / "seed=0")
    changed = ["--config.optimizer.learning_rate=0.5", "--config.training.steps=6", "--allow", "optimizer,training.steps"]
    shared = sweep._shared([*short, *changed])
    assert "--allow=optimizer,training.steps" in shared
    told, bare = (cells_of({"config.seed": ["0"]}, words, tmp_path) for words in (shared, [w for w in shared if "--allow" not in w]))
    with pytest.raises(ConfigError, match=r"learning_rate: 0.5 is refused .*--allow optimizer.learning_rate.*\(cell seed=0; nothing was"):
        sweep.checked(bare)
    assert sweep.checked(told) == {"seed=0": 6}


def test_what_sbatch_refuses_is_one_line(tmp_path, monkeypatch):
    """In its own words: a partition that is not there, say."""
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for name, text in (SLURM | {"sbatch": "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1"}).items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    values = launcher.parse("", ["sweep", "--grid=config.seed=0", "--cluster=slurm", "--partition=gpu"], sweep.define)
    cells, output = cells_of(parse_grid(values.grid), ["--config=f.py"], tmp_path / "out"), tmp_path / "out"
    one = sweep_queue.Sweep(values, sweep.executor_of(values, output / "jobs"), cells, {"seed=0": 20}, output)
    with pytest.raises(ConfigError, match=r"^--cluster: 'slurm' is refused; allowed: what sbatch takes \(sbatch: error: invalid partition"):
        one.start(one.queue.pop())


def test_cells_are_told_the_directory_of_programs_and_not_the_folder_of_this_machine(tmp_path, monkeypatch, capsys):
    """A cell of Slurm may run on a machine of another kind, which has a folder of its own."""
    before = {name: getattr(jax.config, name.lower()) for name in compiled.VARIABLES}
    for name in compiled.VARIABLES:
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(compiled, "_asked", [])
    monkeypatch.chdir(ROOT)
    program, jobs = tmp_path / "program", []
    program.write_text(f"#!/bin/bash\necho \"$@\" > {tmp_path}/words\nenv > {tmp_path}/env\n")
    program.chmod(0o755)

    class Here:
        def submit(self, job):
            jobs.append(job)
            with monkeypatch.context() as of_job:
                of_job.setattr(sys, "executable", str(program))
                job()
            finish(tmp_path / "out" / "seed=0", steps=60)
            return SimpleNamespace(job_id="1", done=lambda: True, state="FINISHED", paths=SimpleNamespace(stderr=tmp_path / "err"))

    monkeypatch.setattr(sweep, "executor_of", lambda values, folder: Here())
    flag = f"--compilation_cache={tmp_path / 'programs'}"
    try:
        words = [*TOY, *flag.split("="), f"--output={tmp_path / 'out'}", "--grid=config.seed=0", "--cluster=debug"]
        assert said(monkeypatch, capsys, *words)[0] == 0
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "programs" / compiled.machine())
    finally:
        for name, value in before.items():
            jax.config.update(name.lower(), value)
    told = (tmp_path / "words").read_text().split()
    assert told.count(flag) == 1 and told[:2] == ["-m", "experiments.train"] and told[2:] == list(jobs[0].words)
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert "PATH" in names and not names & set(compiled.VARIABLES)


@pytest.mark.slow
def test_four_runs_of_which_one_is_killed_make_one_table(tmp_path):
    """By local submitit, two at once: the run that is killed by SIGKILL goes on from its checkpoint; the same command then runs nothing."""
    pytest.importorskip("submitit")
    output = tmp_path / "sweep"
    words = [*TOY, f"--config.data.marker={output / 'killed'}", "--config.data.target=mortal:Mortal", f"--output={output}", "--jobs=2",
             "--grid=config.optimizer.learning_rate=1e-3,3e-3; config.seed=0,1"]  # fmt: skip
    here = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax")}
    env = network_guard.environment(JAX_PLATFORMS="cpu", **here)

    def ran():
        command = [sys.executable, "-m", "experiments.sweep", *words]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)

    first = ran()
    assert first.returncode == 0, first.stdout + first.stderr
    rows = json.loads((output / "table.json").read_text())
    assert len(rows) == 4 and {(row["state"], row["step"], row["steps"]) for row in rows} == {("finished", 60, 60)}
    assert sorted(row["jobs"] for row in rows) == [1, 1, 1, 2] and first.stdout.count("killed by SIGKILL; queued again (1 of 2)") == 1
    (died,) = (Path(row["workdir"]) for row in rows if row["jobs"] == 2)
    assert [end["status"] for end in ends_of(output / "jobs" / f"{died.name}.jsonl")] == [-9, 0]
    assert len({row["loss"] for row in rows}) == 4 and all(row["best"] > 0 and row["seconds"] > 0 for row in rows)
    jobs = sorted(path.name for path in (output / "jobs").iterdir())
    second = ran()
    assert second.returncode == 0 and second.stdout.startswith("4 of 4 cells are done already\n")
    assert sorted(path.name for path in (output / "jobs").iterdir()) == jobs and json.loads((output / "table.json").read_text()) == rows


def free_slurm():
    """Why no job of Slurm can begin here, or None."""
    if shutil.which("sbatch") is None:
        return "there is no Slurm: sbatch is not on PATH"
    nodes = subprocess.run(["sinfo", "--noheader", "--format=%a %T"], capture_output=True, text=True, check=False)
    return None if any(state in nodes.stdout for state in ("up idle", "up mixed")) else f"no node of Slurm is free {nodes.stderr.strip()}"


@pytest.mark.slow
def test_on_slurm_a_cell_that_is_told_to_stop_goes_on_as_the_same_job(tmp_path):
    """As at a preemption with a grace period: it saves and queues itself again.  Where the nodes do not see this folder: --basetemp."""
    pytest.importorskip("submitit")
    if why := free_slurm():
        pytest.skip(why)
    output = tmp_path / "sweep"
    words = [*TOY, "--config.data.target=training.poisoned:Slow", f"--output={output}", "--grid=config.seed=0"]
    env = network_guard.environment(JAX_PLATFORMS="cpu", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    command = [sys.executable, "-m", "experiments.sweep", *words, "--cluster=slurm", "--time=15"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 600
    while not list(output.glob("seed=0/seals/*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    job = (output / "jobs" / "seed=0.job").read_text()
    subprocess.run(["scancel", "--signal=TERM", job], check=True)
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    assert [(end["status"], end["requeued"]) for end in ends_of(output / "jobs" / "seed=0.jsonl")] == [(143, True), (0, False)]
    (row,) = json.loads((output / "table.json").read_text())
    assert (row["state"], row["step"], row["jobs"]) == ("finished", 60, 2) and (output / "jobs" / "seed=0.job").read_text() == job
