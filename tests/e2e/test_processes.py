"Several processes as a user starts them: torchrun and iddm-train in the shell, and processes that die."
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iddm.checkpoints import load_optim
from iddm.run import Run, load_checkpoint

if sys.platform == "win32":
    pytest.skip("torchrun and signals as here are for Linux and macOS", allow_module_level=True)

TINY = ("--image_size 8 --widths 64,96 --attention [] --batch_size 64 --lr 2e-4 --epochs 2 --sample_interval 0 "
        "--save_interval 1 --precision fp32 --device cpu").split()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = [sys.executable, "-m", "iddm.train"]

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here")


def torchrun(n, *args):
    return [*TORCHRUN, "--standalone", f"--nproc-per-node={n}", *args, "-m", "iddm.train"]


def env(**kw):
    return dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)), **kw)


def sh(command, where, timeout=240, **kw):
    command = [*map(str, command)]
    done = subprocess.run(command, cwd=where, env=env(**kw), capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def train(where, name, n=1, *flags):
    "Train a tiny network in `n` processes; return its weights."
    code, out, err = sh([*(torchrun(n) if n > 1 else TRAIN), *TINY, "--run_name", name, *flags], where)
    assert code == 0, err[-3000:]
    return load_checkpoint(where / "results" / name, ema=False)[0]


def far(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in a)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "56 steps of the same run in 1, 2 and 4 processes."
    where = tmp_path_factory.mktemp("worlds")
    return where, {n: train(where, f"in{n}", n) for n in (1, 2, 4)}


@pytest.mark.parametrize("n", [2, 4])
def test_weights_agree_at_any_world_size(runs, n):
    print(f"{n} processes: weights differ from one's by {far(runs[1][1], runs[1][n]):.1e} at the most")
    assert far(runs[1][1], runs[1][n]) < 1e-5


def test_exact_shards_give_the_same_bits(tmp_path):
    flags = "--exact_shards", "4", "--grad_accum", "2", "--dropout", "0.1"
    one, two, four = [train(tmp_path, f"in{n}", n, *flags) for n in (1, 2, 4)]
    assert same(one, two)
    assert same(one, four)


@pytest.fixture(scope="module")
def resumed(runs, tmp_path_factory):
    "The run in two processes, resumed in two."
    where = tmp_path_factory.mktemp("resumed")
    shutil.copytree(runs[0] / "results", where / "results")
    return where, train(where, "in2", 2, "--epochs", "3", "--resume", "True")


@pytest.mark.parametrize("before, after", [(4, 1), (1, 4)])
def test_a_checkpoint_is_resumed_in_any_number_of_processes(resumed, before, after):
    where, weights = resumed
    assert far(weights, train(where, f"in{before}", after, "--epochs", "3", "--resume", "True")) < 2e-5


@pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason=f"torch {torch.__version__} shards weights on GPUs only")
def test_shards_of_weights_train_as_copies_do(runs):
    where = runs[0]
    grid = "--num_vis", "3", "--sample_interval", "1", "--sample_steps", "2"
    sharded = train(where, "sharded", 2, "--shard", "True", *grid, "--grad_accum", "1")
    print(f"sharded: weights differ from those of copies by {far(runs[1][2], sharded):.1e} at the most")
    assert far(runs[1][2], sharded) < 1e-5
    assert (where / "results/sharded/vis/epoch_002_ema.png").is_file()
    a, b = (load_optim(Run(where / "results" / o).latest())["optim"]["state"] for o in ("in2", "sharded"))
    assert all(torch.allclose(a[i][k], b[i][k], atol=1e-5) for i in a for k in a[i])
    alone = train(where, "sharded", 1, "--epochs", "3", "--resume", "True", "--shard", "False")
    again = train(where, "in2", 2, "--epochs", "3", "--resume", "True", "--shard", "True")
    assert far(alone, again) < 2e-5


def children(pid, word, where="cmdline"):
    "The processes that a process has started, with a word in their command line or environment: their numbers."
    found = []
    for o in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((o / "stat").read_text().rpartition(")")[2].split()[1])
            text = (o / where).read_bytes()
        except OSError:
            continue
        if parent == pid and word in text:
            found.append(int(o.name))
    return found


def worker(p, rank):
    "The process of a rank that torchrun has started; none before both are there."
    both = [children(p.pid, f"\0RANK={o}\0".encode(), "environ") for o in (0, 1)]
    return both[rank][0] if all(both) else None


def workers(p):
    "The processes that `iddm-train --distributed True` trains in; none before both are there."
    launchers = children(p.pid, b"_be_launcher")
    found = children(launchers[0], b"spawn_main") if launchers else []
    return sorted(found) if len(found) == 2 else None


def wait_for(what, seconds=90):
    deadline = time.monotonic() + seconds
    got = what()
    while not got:
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(.05)
        got = what()
    return got


def steps(run):
    "The steps that a run has recorded so far."
    log = run / "metrics.jsonl"
    text = log.read_text() if log.is_file() else ""
    return [int(o) for o in re.findall(r'"kind": "step", "step": (\d+)', text)]


@needs_proc
def test_a_killed_worker_costs_the_steps_since_the_last_save(runs, tmp_path):
    command = [*torchrun(2, "--max-restarts=3"), *TINY, "--run_name", "killed", "--save_minutes", "0.003"]
    p = subprocess.Popen(command, cwd=tmp_path, env=env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = tmp_path / "results/killed"
    kills = [(1, 12), (0, 35)]  # a rank, and after how many steps
    try:
        for rank, after in kills:
            wait_for(lambda after=after: len(steps(run)) > after)
            os.kill(wait_for(lambda rank=rank: worker(p, rank)), signal.SIGKILL)
            time.sleep(1)
        out = p.communicate(timeout=180)[0]
    finally:
        p.terminate()
    assert p.returncode == 0, out[-3000:]
    assert out.count("resuming at step") == 2
    assert same(load_checkpoint(run, ema=False)[0], runs[1][2])
    assert steps(run) == list(range(1, 57))


DIES = """
import os, signal, time
import iddm.train
from iddm.trainer import Trainer

attempt, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]

class Dying(Trainer):
    def fit(self):
        for e in super().fit():
            if (attempt, rank, e.kind) == ("0", os.environ["DIES_RANK"], os.environ["DIES_AFTER"]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield e

iddm.train.Trainer = Dying
if attempt == "1" and rank == "0":
    time.sleep(2)  # later than the other
iddm.train.main()
"""
AGAIN = "--resume", "True", "--load_model_dir", "in4", "--epochs", "3", "--sample_interval", "9", "--sample_steps", "2"


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    "A run that starts from the checkpoint of another, and isn't interrupted."
    where = tmp_path_factory.mktemp("whole")
    shutil.copytree(runs[0] / "results", where / "results")
    return where, train(where, "whole", 2, *AGAIN)


@pytest.mark.parametrize("rank, after, say", [
    ("1", "step", "resuming at step 56 of 84"),  # before the first save
    ("0", "checkpoint", "resuming at step 84 of 84"),  # after the last save, before the grid
])
def test_a_worker_killed_before_the_first_save_or_after_the_last_loses_nothing(whole, rank, after, say):
    where, weights = whole
    (where / "dies.py").write_text(DIES)
    command = [*torchrun(2, "--max-restarts=1")[:-2], "dies.py", *TINY, *AGAIN, "--run_name", after]
    code, out, err = sh(command, where, DIES_RANK=rank, DIES_AFTER=after)
    assert code == 0, err[-3000:]
    assert say in out
    assert same(load_checkpoint(where / "results" / after, ema=False)[0], weights)
    grids = [(where / "results" / o / "vis/epoch_003_ema.png").read_bytes() for o in (after, "whole")]
    assert grids[0] == grids[1]


def test_an_old_run_is_not_touched_by_a_restart(runs, tmp_path):
    shutil.copytree(runs[0] / "results", tmp_path / "results")
    before = (tmp_path / "results/in2/train.log").read_bytes()
    code, out, err = sh([*torchrun(2, "--max-restarts=1"), *TINY, "--run_name", "in2"], tmp_path)
    assert code
    assert "already holds a run" in err
    assert (tmp_path / "results/in2/train.log").read_bytes() == before


@pytest.mark.parametrize("flags, say", [
    (["--epoks", "3"], "epoks"),
    (["--batch_size", "63"], "--batch_size 63"),
    (["--dataset_path", "nowhere"], "nowhere"),
    (["--main_gpu", "2"], "--main_gpu 2: with 2 processes choose 0 to 1"),
    (["--distributed", "True", "--world_size", "4"], "--world_size 4: there are 2 processes"),
])
def test_what_is_wrong_is_said_once(tmp_path, flags, say):
    code, out, err = sh([*torchrun(2), *TINY, *flags], tmp_path, timeout=90)
    lines = [o for o in err.splitlines() if o.startswith("iddm-train:")]
    assert code
    assert len(lines) == 1, err
    assert say in lines[0]


def test_a_port_in_use_is_an_error(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        place = f"--rdzv-endpoint=127.0.0.1:{s.getsockname()[1]}"
        meet = ["--rdzv-backend=c10d", place, "--rdzv-conf=is_host=1", "--nproc-per-node=2"]
        code, out, err = sh([*TORCHRUN, *meet, "-m", "iddm.train", *TINY], tmp_path, timeout=60)
    assert code
    assert "RendezvousConnectionError" in err
    assert not list(tmp_path.iterdir())


BROKEN = """
import iddm.train
from iddm.trainer import Trainer

class Broken(Trainer):
    def fit(self):
        for e in super().fit():
            if self.rank == 1:
                1 / 0
            yield e

iddm.train.Trainer = Broken
iddm.train.main()
"""


def test_a_worker_that_raises_shows_its_traceback_once(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    code, out, err = sh([*torchrun(2)[:-2], "broken.py", *TINY], tmp_path)
    assert code
    assert err.count("ZeroDivisionError: division by zero") == 1, err
    assert "process 1 failed" in err
    assert "Connection closed" not in err


def begin(where, *flags):
    "The command, training in two processes until it is stopped; in a session of its own, as in a terminal."
    command = [*TRAIN, *TINY, "--distributed", "True", "--epochs", "400", *flags]
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background has it ignored
    try:
        return subprocess.Popen(command, cwd=where, env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, old)


def saved_step(run):
    "The step of the checkpoint that `last` names."
    name = (run / "checkpoints/last").read_text()
    return json.loads((run / "checkpoints" / name / "state.json").read_text())["step"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda o: o.name)
def test_the_command_starts_its_own_processes_and_stops_them(tmp_path, number):
    p = begin(tmp_path, "--world_size", "2", "--main_gpu", "1")
    run = tmp_path / "results/df"
    wait_for(lambda: len(steps(run)) > 5)
    os.killpg(p.pid, number)  # as a terminal does
    out, err = p.communicate(timeout=60)
    assert p.returncode == 128 + number
    assert err.count("stopped after step") == 1, err
    assert "Traceback" not in err
    assert "in 2 processes" in out
    assert saved_step(run) == steps(run)[-1]


@needs_proc
def test_ctrl_c_while_processes_start_ends_all_in_a_line(tmp_path):
    p = begin(tmp_path)
    pids = wait_for(lambda: workers(p))
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130
    assert err.strip() == "stopped before the training began; nothing of the run is written"
    assert not any(Path(f"/proc/{o}").exists() for o in pids)
    assert not (tmp_path / "results/df").exists()


@needs_proc
def test_a_killed_process_ends_the_command_and_is_named(tmp_path):
    p = begin(tmp_path)
    pids = wait_for(lambda: workers(p))
    os.kill(pids[0], signal.SIGKILL)
    out, err = p.communicate(timeout=90)
    assert p.returncode == 2
    assert err.strip().splitlines()[-1] == "iddm-train: process 0 was ended by SIGKILL"
    assert not any(Path(f"/proc/{o}").exists() for o in pids)


@needs_proc
def test_processes_save_and_end_when_the_command_is_killed(tmp_path):
    p = begin(tmp_path)
    run = tmp_path / "results/df"
    wait_for(lambda: len(steps(run)) > 5)
    pids = workers(p)
    p.kill()
    p.communicate(timeout=60)
    wait_for(lambda: not any(Path(f"/proc/{o}").exists() for o in pids))
    assert saved_step(run) == steps(run)[-1]


def test_too_few_gpus_are_said(tmp_path):
    n = torch.cuda.device_count()
    flags = ["--world_size", f"{n + 1}", "--batch_size", "5040"] if n else ["--device", "cuda"]
    code, out, err = sh([*TRAIN, "--distributed", "True", *flags], tmp_path)
    assert code == 2
    assert ("GPU" if n else "cuda") in err.splitlines()[-1]
