"Many processes as a user starts them: torchrun and iddm-train in the shell, workers that die, machines that don't fit each other."
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iddm.checkpoints import load_checkpoint, load_optim

if sys.platform == "win32": pytest.skip("torchrun and signals as here are for Linux and macOS", allow_module_level=True)

TINY = "--image_size 8 --widths 64,96 --attention [] --batch_size 64 --lr 2e-4 --epochs 2 --sample_interval 0 --precision fp32 --device cpu".split()
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
    for o in exact[1:]: assert all(torch.equal(exact[0][k], o[k]) for k in o)


def test_a_checkpoint_goes_on_in_any_number_of_processes(runs, tmp_path):
    shutil.copytree(runs[0] / "results", tmp_path / "results")
    flags = "--epochs", "3", "--resume", "True"
    gone_on = {(a, b): train(tmp_path, f"in{a}", b, *flags) for a, b in ((4, 1), (1, 4), (2, 2))}
    for o in gone_on.values(): assert far(gone_on[2, 2], o) < 2e-5


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason=f"torch {torch.__version__} shards weights on GPUs only")
def test_shards_of_weights_train_as_copies_do(runs):
    where = runs[0]
    sharded = train(where, "sharded", 2, "--shard", "True", "--num_vis", "3", "--sample_interval", "1", "--sample_steps", "2", "--grad_accum", "1")
    print(f"sharded: weights differ from those of copies by {far(runs[1][2], sharded):.1e} at the most")
    assert far(runs[1][2], sharded) < 1e-5 and (where / "results/sharded/vis/epoch_002_ema.png").is_file()
    a, b = (load_optim(where / "results" / o)["optim"]["state"] for o in ("in2", "sharded"))
    assert all(torch.allclose(a[i][k], b[i][k], atol=1e-5) for i in a for k in a[i])
    alone = train(where, "sharded", 1, "--epochs", "3", "--resume", "True", "--shard", "False")
    again = train(where, "in2", 2, "--epochs", "3", "--resume", "True", "--shard", "True")
    assert far(alone, again) < 2e-5


def workers(p):
    "The processes that a launcher has started, by their number."
    found = {}
    for o in Path("/proc").glob("[0-9]*"):
        try: parent, env = int((o / "stat").read_text().rpartition(")")[2].split()[1]), (o / "environ").read_bytes()
        except OSError: continue
        if parent == p.pid and (m := re.search(rb"(?:^|\0)RANK=(\d+)", env)): found[int(m[1])] = int(o.name)
    return found


def wait_for(what, seconds=90):
    deadline = time.monotonic() + seconds
    while not (got := what()): assert time.monotonic() < deadline, "it took too long"; time.sleep(.05)  # noqa: E702
    return got


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds workers in /proc, which is not here")
def test_a_killed_worker_costs_the_steps_since_the_last_save(runs, tmp_path):
    flags = [*TINY, "--run_name", "killed", "--save_minutes", "0.003"]
    p = subprocess.Popen([*torchrun(2, "--max-restarts=3"), *flags], cwd=tmp_path, env=env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "results/killed/metrics.jsonl"
    try:
        for rank, after in ((1, 12), (0, 35)):
            wait_for(lambda after=after: log.is_file() and log.read_text().count('"step", ') > after)
            os.kill(wait_for(lambda: len(found := workers(p)) == 2 and found)[rank], signal.SIGKILL)
            time.sleep(1)
        out = p.communicate(timeout=180)[0]
    finally: p.terminate()
    assert p.returncode == 0, out[-3000:]
    assert out.count("going on from step") == 2
    weights = load_checkpoint(tmp_path / "results/killed", ema=False)[0]
    assert all(torch.equal(weights[k], runs[1][2][k]) for k in weights)
    assert [int(o) for o in re.findall(r'"kind": "step", "step": (\d+)', log.read_text())] == list(range(1, 57))


def test_an_old_run_is_not_touched_by_a_restart(runs, tmp_path):
    shutil.copytree(runs[0] / "results", tmp_path / "results")
    before = (tmp_path / "results/in2/train.log").read_bytes()
    code, out, err = sh([*torchrun(2, "--max-restarts=1"), *TINY, "--run_name", "in2"], tmp_path)
    assert code and "already holds a run" in err and (tmp_path / "results/in2/train.log").read_bytes() == before


def test_what_is_wrong_is_said_once_and_soon(tmp_path):
    start = time.monotonic()
    for flags, say in ((["--epoks", "3"], "epoks"), (["--batch_size", "63"], "--batch_size 63"), (["--dataset_path", "nowhere"], "nowhere")):
        code, out, err = sh([*torchrun(2), *TINY, *flags], tmp_path)
        told = [o for o in err.splitlines() if o.startswith("iddm-train:")]
        assert code and len(told) == 1 and say in told[0], err
    assert time.monotonic() - start < 60


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


def test_too_few_gpus_are_said(tmp_path):
    if torch.cuda.device_count() == 0: say, code = "cuda", sh([*TRAIN, "--distributed", "True", "--device", "cuda"], tmp_path)
    else: say, code = "GPU", sh([*TRAIN, "--distributed", "True", "--world_size", str(torch.cuda.device_count() + 1), "--batch_size", "5040"], tmp_path)
    assert code[0] == 2 and say in code[2].splitlines()[-1]
