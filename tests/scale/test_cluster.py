"""The smoke grid by make's runner, by Snakemake, and by Snakemake on a Slurm of this machine: the same metrics, digit by digit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.tiers import TIERS
from mastlib.training import fit

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
SEEDS = [0, 1, 2] if os.environ.get("CI") else [0]  # all of it takes a Slurm of one machine ten minutes
NO_SEED, ONE_SEED = ("05_augself_cassle", "08_why_transfer"), ("03_motivation_ablation", "04_mast_training")
ALL_SEEDS = ("06_mask_analysis", "07_uncertainty")
ONE = 6 + 13 + 4 - 2  # MoCo of chapter 03 is one of chapter 04's arms, two of which are chapter 06's as well
RUNS = ONE + 4 * (len(SEEDS) - 1)
TIMING = ["seconds", "images_per_second"]
SLURM = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel")
SHORT = [  # between looks at a job: of seconds, where a cluster is asked every minute
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=3", "--seconds-between-status-checks=3", "--latency-wait=10",
    "--default-resources", "slurm_partition=cpu", "slurm_account=none",
]  # fmt: skip


def environment(outputs: Path) -> dict[str, str]:
    """This one with its `outputs`, and no threads but what the tier states."""
    return {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"MASTLIB_OUTPUTS": str(outputs)}


def called(outputs: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment(outputs), capture_output=True, text=True, check=False)


def given(seeds: list[int]) -> list[str]:
    taken = {name: [] for name in NO_SEED} | dict.fromkeys(ONE_SEED, seeds[:1]) | dict.fromkeys(ALL_SEEDS, seeds)
    return [f"{name}.seeds={chosen}" for name, chosen in taken.items()]


def snakemake(outputs: Path, profile: str, seeds: list[int], *options: str) -> list[str]:
    """The command that trains the smoke grid with `seeds`."""
    command = [sys.executable, "-m", "snakemake", "runs", "--profile", str(ROOT / "profiles" / profile), *options]
    return [*command, "--directory", str(outputs / "snakemake"), "--config", "tier=smoke", f"parameters={given(seeds)}"]


def metrics(outputs: Path) -> dict[str, pd.DataFrame]:
    """By run id, what was logged, but for the time that it took; each run had the threads that the tier states."""
    store = RunStore(outputs / "runs")
    assert {store.read(name).info["threads"] for name in store.identities()} == {TIERS["smoke"].cpus}
    return {name: store.read(name).metrics().drop(columns=TIMING) for name in store.identities()}


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    assert sorted(found) == sorted(expected)
    for name, frame in found.items():
        pd.testing.assert_frame_equal(frame, expected[name], check_exact=True)


@pytest.fixture(scope="module")
def by_make(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The metrics of the smoke grid with SEEDS, as `make grid TIER=smoke` trains it."""
    outputs = tmp_path_factory.mktemp("make")
    options = [word for pair in given(SEEDS) for word in ("-p", pair)]
    done = called(outputs, sys.executable, "-m", "mastlib.grid", "run", "--tier", "smoke", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = metrics(outputs)
    assert len(found) == RUNS and f"{RUNS} runs: 0 there, {RUNS} to train" in done.stdout
    return found


@pytest.mark.slow
def test_a_dry_run_lists_the_laptop_grid_with_its_forecast(tmp_path):
    done = called(tmp_path, sys.executable, "-m", "snakemake", "-n", "--directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "laptop tier: 147 runs: 0 there, 147 to train, for how long is not known" in done.stderr
    said = done.stdout + done.stderr
    assert "04-vicreg-5-no-colour-ops-2.done" in said and "chapter=11_runs" in said
    assert not (tmp_path / "runs").exists() and not (ROOT / ".snakemake").exists()


@pytest.mark.slow
def test_snakemake_trains_what_make_trains_and_goes_on_where_something_is_gone(tmp_path, by_make):
    command = snakemake(tmp_path, "local", SEEDS[:1])
    done = called(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    found = metrics(tmp_path)
    assert len(found) == ONE
    assert_same(found, {name: by_make[name] for name in found})
    again = called(tmp_path, *command)
    assert again.returncode == 0 and f"smoke tier: {ONE} runs, all there" in again.stderr
    assert "rule fit" not in again.stdout + again.stderr
    shutil.rmtree(tmp_path / "runs" / min(found))
    third = called(tmp_path, *command)
    assert third.returncode == 0 and (third.stdout + third.stderr).count("rule fit:") == 1
    assert_same(metrics(tmp_path), found)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A command of a Slurm that is this machine: what it says."""
    if os.geteuid() or not all(map(shutil.which, SLURM)) or Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("needs root, Debian's slurmctld, slurmd, slurm-client and munge, and no other Slurm")
    folder = tmp_path / "slurm"
    # Not into pipes: daemons would keep them open.
    with open(tmp_path / "slurm.txt", "w") as said:
        started = subprocess.run([str(HERE / "slurm.sh"), "start", str(folder)], stdout=said, stderr=said, check=False)
    try:
        assert started.returncode == 0, (tmp_path / "slurm.txt").read_text()
        yield lambda *command: subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run([str(HERE / "slurm.sh"), "stop", str(folder)], check=False, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_slurm_trains_what_make_trains_and_a_cancelled_job_is_finished_by_the_next_call(tmp_path, by_make, slurm):
    outputs = tmp_path / "outputs"
    command = snakemake(outputs, "slurm", SEEDS, "--retries", "0", *SHORT)
    with open(tmp_path / "first.txt", "w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(outputs), stdout=said, stderr=said)
        cancelled = ""
        while process.poll() is None:
            if not cancelled and list(outputs.glob("grid/smoke/runs/*.done")):
                jobs = slurm("squeue", "--noheader", "--states=RUNNING", "--format=%M %i %k").splitlines()
                # One that has just begun: a run takes a second or two, its process some more to start.
                cancelled = next(
                    (job.split()[1] for job in jobs if "fit" in job and job.startswith(("0:00", "0:01"))), ""
                )
                if cancelled:
                    slurm("scancel", cancelled)
            time.sleep(0.2)
    text = (tmp_path / "first.txt").read_text()
    assert cancelled and process.returncode != 0, text[-3000:]
    assert f"smoke tier: {RUNS} runs: 0 there, {RUNS} to train" in text
    first = metrics(outputs)
    assert 0 < len(first) < len(by_make), "the cancelled run is not there, others are"

    done = called(outputs, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"smoke tier: {RUNS} runs: {len(first)} there" in done.stderr
    assert_same(metrics(outputs), by_make)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_that_srun_starts_make_a_run_together_and_go_on_after_scancel(tmp_path, slurm):
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=512, batch_size=128,
        epochs=400, warmup_epochs=0, optimizer="sgd", lr=0.002, precision="fp32", memory_format="contiguous", compile="off",
    )  # fmt: skip
    task, store = tmp_path / "task.json", RunStore(tmp_path / "runs")
    settings = {"spec": spec.to_dict(), "store": str(store.root)}
    task.write_text(json.dumps(settings))
    command = ["srun", "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--mem=6000"]
    command += [sys.executable, "-m", "mastlib.worker", str(task), "--devices", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 120
        while not (rows := list(store.root.glob(".*.partial/metrics.csv"))) or not rows[0].read_text():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        slurm("scancel", slurm("squeue", "--noheader", "--format=%i").strip())
        process.communicate(timeout=120)
    (name,) = store.unfinished()
    assert json.loads((store.working(name) / "run.json").read_text())["status"] == "interrupted"
    reached = max(int(path.stem) for path in store.working(name).glob("resume/*.safetensors"))
    assert 0 < reached < spec.total_steps

    short = spec.replace(epochs=2)
    task.write_text(json.dumps(settings | {"spec": short.to_dict()}))
    slurm(*command)
    together = fit(short, store=store)
    assert together.info["devices"] == 2
    alone = fit(short, progress=False, store=RunStore(tmp_path / "alone"))
    for key, value in alone.weights("method").items():
        assert (together.weights("method")[key] - value).abs().max() <= 1e-5 * max(1, float(value.abs().max()))
