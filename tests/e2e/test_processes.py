"Many processes as a user starts them: torchrun and iddm-train in the shell, workers that die, machines that don't fit each other."
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

from iddm.checkpoints import load_checkpoint, load_optim

if sys.platform == "win32":
    pytest.skip("torchrun and signals as here are for Linux and macOS", allow_module_level=True)

TINY = "--image_size 8 --widths 64,96 --attention [] --batch_size 64 --lr 2e-4 --epochs 2 --sample_interval 0 --save_interval 1 --precision fp32 --device cpu".split()
TRAIN = [sys.executable, "-m", "iddm.train"]


def torchrun(n, *args): return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *args, "-m", "iddm.train"]


def env(**kw): return dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)), **kw)


def sh(command, where, timeout=240, **kw):
    done = subprocess.run([*map(str, command)], cwd=where, env=env(**kw), capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def train(where, name, n=1, *flags):
    "Train a tiny network in `n` processes; return its weights."
    code, out, err = sh([*(torchrun(n) if n > 1 else TRAIN), *TINY, "--run_name", name, *flags], where)
    assert code == 0, err[-3000:]
    return load_checkpoint(where / "results" / name, ema=False)[0]


def far(a, b): return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "56 steps of the same run in 1, 2 and 4 processes."
    where = tmp_path_factory.mktemp("worlds")
    return where, {n: train(where, f"in{n}", n) for n in (1, 2, 4)}


def test_weights_agree_at_any_world_size(runs):
    for n in (2, 4):
        print(f"{n} processes: weights differ from one's by {far(runs[1][1], runs[1][n]):.1e} at the most")
        assert far(runs[1][1], runs[1][n]) < 1e-5


def test_exact_shards_give_the_same_bits(tmp_path):
    exact = [train(tmp_path, f"in{n}", n, "--exact_shards", "4", "--grad_accum", "2", "--dropout", "0.1") for n in (1, 2, 4)]
    for o in exact[1:]:
        assert all(torch.equal(exact[0][k], o[k]) for k in o)


def test_a_checkpoint_goes_on_in_any_number_of_processes(runs, tmp_path):
    shutil.copytree(runs[0] / "results", tmp_path / "results")
    flags = "--epochs", "3", "--resume", "True"
    gone_on = {(a, b): train(tmp_path, f"in{a}", b, *flags) for a, b in ((4, 1), (1, 4), (2, 2))}
    for o in gone_on.values():
        assert far(gone_on[2, 2], o) < 2e-5


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason=f"torch {torch.__version__} shards weights on GPUs only")
def test_shards_of_weights_train_as_copies_do(runs):
    where = runs[0]
    sharded = train(where, "sharded", 2, "--shard", "True", "--num_vis", "3", "--sample_interval", "1", "--sample_steps", "2", "--grad_accum", "1")
    print(f"sharded: weights differ from those of copies by {far(runs[1][2], sharded):.1e} at the most")
    assert far(runs[1][2], sharded) < 1e-5
    assert (where / "results/sharded/vis/epoch_002_ema.png").is_file()
    a, b = (load_optim(where / "results" / o)["optim"]["state"] for o in ("in2", "sharded"))
    assert all(torch.allclose(a[i][k], b[i][k], atol=1e-5) for i in a for k in a[i])
    alone = train(where, "sharded", 1, "--epochs", "3", "--resume", "True", "--shard", "False")
    again = train(where, "in2", 2, "--epochs", "3", "--resume", "True", "--shard", "True")
    assert far(alone, again) < 2e-5


def children(p, word, where="cmdline"):
    "The processes that a process has started, with a word in their command line or environment."
    found = []
    for o in Path("/proc").glob("[0-9]*"):
        try:
            parent, text = int((o / "stat").read_text().rpartition(")")[2].split()[1]), (o / where).read_bytes()
        except OSError:
            continue
        if parent == p.pid and word in text:
            found.append(o)
    return found


def worker(p, rank):
    "The process id of a worker of torchrun's, where both are there."
    both = [children(p, f"\0RANK={o}\0".encode(), "environ") for o in (0, 1)]
    return all(both) and int(both[rank][0].name)


def wait_for(what, seconds=90):
    deadline = time.monotonic() + seconds
    while not (got := what()):
        assert time.monotonic() < deadline, "it took too long"; time.sleep(.05)
    return got


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds workers in /proc, which is not here")
def test_a_killed_worker_costs_the_steps_since_the_last_save(runs, tmp_path):
    flags = [*TINY, "--run_name", "killed", "--save_minutes", "0.003"]
    p = subprocess.Popen([*torchrun(2, "--max-restarts=3"), *flags], cwd=tmp_path, env=env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "results/killed/metrics.jsonl"
    try:
        for rank, after in ((1, 12), (0, 35)):
            wait_for(lambda after=after: log.is_file() and log.read_text().count('"step", ') > after)
            os.kill(wait_for(lambda rank=rank: worker(p, rank)), signal.SIGKILL)
            time.sleep(1)
        out = p.communicate(timeout=180)[0]
    finally:
        p.terminate()
    assert p.returncode == 0, out[-3000:]
    assert out.count("going on from step") == 2
    weights = load_checkpoint(tmp_path / "results/killed", ema=False)[0]
    assert all(torch.equal(weights[k], runs[1][2][k]) for k in weights)
    assert [int(o) for o in re.findall(r'"kind": "step", "step": (\d+)', log.read_text())] == list(range(1, 57))


DIES = """
import os, signal, time
import iddm.trainer as t
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    setattr(t, os.environ["DIES_IN"], lambda *a: os.kill(os.getpid(), signal.SIGKILL))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1" and os.environ["RANK"] == "0": time.sleep(2)  # later than the other
from iddm.train import main
main()
"""


def test_a_worker_killed_before_the_first_save_or_after_the_last_loses_nothing(runs, tmp_path):
    shutil.copytree(runs[0] / "results", tmp_path / "results")
    (tmp_path / "dies.py").write_text(DIES)
    flags = "--resume", "True", "--load_model_dir", "in4", "--epochs", "3", "--sample_interval", "9", "--sample_steps", "2"
    whole = train(tmp_path, "whole", 2, *flags)
    for where, said in (("train_step", "going on from step 56 of 84"), ("samples", "going on from step 84 of 84")):
        code, out, err = sh([*torchrun(2, "--max-restarts=1")[:-2], "dies.py", *TINY, *flags, "--run_name", where], tmp_path, DIES_IN=where)
        weights = load_checkpoint(tmp_path / "results" / where, ema=False)[0]
        assert code == 0 and said in out and all(torch.equal(weights[k], whole[k]) for k in whole), err[-3000:]
        assert (tmp_path / "results" / where / "vis/epoch_003_ema.png").read_bytes() == (tmp_path / "results/whole/vis/epoch_003_ema.png").read_bytes()


def test_an_old_run_is_not_touched_by_a_restart(runs, tmp_path):
    shutil.copytree(runs[0] / "results", tmp_path / "results")
    before = (tmp_path / "results/in2/train.log").read_bytes()
    code, out, err = sh([*torchrun(2, "--max-restarts=1"), *TINY, "--run_name", "in2"], tmp_path)
    assert code
    assert "already holds a run" in err
    assert (tmp_path / "results/in2/train.log").read_bytes() == before


def test_what_is_wrong_is_said_once_and_soon(tmp_path):
    start = time.monotonic()
    for flags, say in ((["--epoks", "3"], "epoks"), (["--batch_size", "63"], "--batch_size 63"), (["--dataset_path", "nowhere"], "nowhere"), (["--main_gpu", "2"], "--main_gpu 2: with 2 processes choose 0 to 1"), (["--distributed", "True", "--world_size", "4"], "--world_size 4: there are 2 processes")):
        code, out, err = sh([*torchrun(2), *TINY, *flags], tmp_path)
        told = [o for o in err.splitlines() if o.startswith("iddm-train:")]
        assert code and len(told) == 1 and say in told[0], err
    assert time.monotonic() - start < 90


def test_a_port_in_use_is_told(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)), s.listen()
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{s.getsockname()[1]}", "--rdzv-conf=is_host=1"]
        code, out, err = sh([*torchrun(2)[:3], *meet, "--nproc-per-node=2", "-m", "iddm.train", *TINY], tmp_path, timeout=60)
    assert code
    assert "RendezvousConnectionError" in err
    assert not list(tmp_path.iterdir())


def test_a_worker_that_raises_shows_its_traceback_once(tmp_path):
    (tmp_path / "broken.py").write_text("import os\nimport iddm.trainer as t\nold = t.train_step\ndef step(*a):\n    if os.environ['RANK'] == '1': 1 / 0\n    return old(*a)\nt.train_step = step\nfrom iddm.train import main\nmain()\n")
    code, out, err = sh([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "broken.py", *TINY], tmp_path)
    assert code and err.count("ZeroDivisionError: division by zero") == 1 and "Connection closed" not in err, err


def test_the_command_starts_its_own_processes_and_stops_them(tmp_path):
    flags = [*TINY, "--epochs", "400", "--distributed", "True", "--world_size", "2", "--main_gpu", "1"]
    p = subprocess.Popen([*TRAIN, *flags], cwd=tmp_path, env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: (o := tmp_path / "results/df/metrics.jsonl").is_file() and o.read_text().count("step") > 5)
    os.killpg(p.pid, signal.SIGINT)  # as a terminal does
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and err.count("stopped after step") == 1 and "Traceback" not in err and "in 2 processes" in out, err
    assert (tmp_path / "results/df/checkpoints/last").is_file()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds workers in /proc, which is not here")
def test_ctrl_c_while_processes_start_ends_all_in_a_line(tmp_path):
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # where these tests run in the background it's ignored, by all that they start too
    p = subprocess.Popen([*TRAIN, *TINY, "--distributed", "True"], cwd=tmp_path, env=env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, old)
    pids = wait_for(lambda: len(found := children(p, b"spawn_main")) == 2 and found)
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and err.strip() == "stopped before the training began; nothing of the run is written" and not any(o.exists() for o in pids), err
    assert not (tmp_path / "results/df").exists()
def test_too_few_gpus_are_said(tmp_path):
    if torch.cuda.device_count() == 0:
        say, code = "cuda", sh([*TRAIN, "--distributed", "True", "--device", "cuda"], tmp_path)
    else:
        say, code = "GPU", sh([*TRAIN, "--distributed", "True", "--world_size", str(torch.cuda.device_count() + 1), "--batch_size", "5040"], tmp_path)
    assert code[0] == 2
    assert say in code[2].splitlines()[-1]
