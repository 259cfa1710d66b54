"A run that is killed at any moment and is resumed ends in the same bits. On Windows there is no SIGKILL."
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iddm.checkpoints import load_optim, read_weights
from iddm.config import TrainConfig
from iddm.run import Run, load_run_config
from iddm.trainer import Trainer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL, which Windows lacks")

DRIVER = r'''
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from iddm.checkpoints import load_optim, read_weights
from iddm.dataset import load_digits
from iddm.recording import record
from iddm.run import Run, load_checkpoint, resolve_checkpoint, run_snapshots
from iddm.trainer import TrainConfig, Trainer

where, mode = sys.argv[1:]
data = load_digits(8)

def run(name, resume, deadly=None):
    "Train in a process of its own, saving after every step; it kills itself before file operation number `deadly`."
    pid = os.fork()
    if pid:
        return pid
    if deadly is not None:
        count = 0
        def fatal(f):
            def g(*args, **kw):
                nonlocal count
                if count == deadly:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return f(*args, **kw)
            return g
        operations = [(os, "fsync"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree")]
        for place, operation in operations:
            setattr(place, operation, fatal(getattr(place, operation)))
    config = TrainConfig(
        image_size=8, widths=(32,), attention=(), dropout=.1, batch_size=256, epochs=6, sample_interval=0,
        save_minutes=1e-9, keep=2, ema_snapshots=42, precision="fp32", device="cpu", result_path=where, run_name=name,
        resume=resume)
    trainer = Trainer(config, data)
    for _ in record(trainer.fit(), trainer):
        pass
    os._exit(0)

def ended(pid):
    "The signal that ended a process, 0 if it ended by itself; what it left under `last` must load."
    status = os.waitpid(pid, 0)[1]
    if os.path.exists(f"{where}/cut/checkpoints/last"):
        load_checkpoint(f"{where}/cut")
        load_checkpoint(f"{where}/cut", ema=False)
        load_optim(resolve_checkpoint(f"{where}/cut"))
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

start = time.monotonic()
assert ended(run("whole", False)) == 0
whole = time.monotonic() - start
kills = half = 0
resume = False
steps = []
if mode == "random":
    random.seed(1)
    while kills < 10:
        log = Path(where, "cut", "metrics.jsonl")
        seen = log.stat().st_size if log.exists() else 0
        pid = run("cut", resume)
        while kills > 1 and log.stat().st_size <= seen:
            time.sleep(.001)  # the first two may come before the first step
        time.sleep(random.uniform(0, whole / 15))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == signal.SIGKILL, "it was done before ten kills"
        has_last = Path(where, "cut/checkpoints/last").exists()
        steps.append(resolve_checkpoint(f"{where}/cut").name if has_last else "none")
        kills += 1
        resume = os.path.exists(f"{where}/cut/config.yaml")
        half += bool(list(Path(where).glob("cut/checkpoints/.*")))
else:
    # a step's snapshots make six file operations, and a save about a dozen; the second save has to sweep up after
    # the first, and the third deletes. The second kill comes where the first doesn't: both together meet two thirds
    # of the operations, and IDDM_ALL_KILLS=1 meets all of them twice
    for deadly in range(0, 36, int(mode)):
        shutil.rmtree(f"{where}/cut", ignore_errors=True)
        assert ended(run("cut", False, deadly)) == signal.SIGKILL
        half += bool(list(Path(where).glob("cut/checkpoints/.*")))
        assert ended(run("cut", True, deadly + 7)) == signal.SIGKILL
        kills += 2
assert ended(run("cut", True)) == 0
a, b = (resolve_checkpoint(f"{where}/{name}") for name in ("whole", "cut"))
files = ("model.safetensors", "ema_model.safetensors", "power_ema.safetensors")
pairs = [(read_weights(a / o)[0], read_weights(b / o)[0]) for o in files]
snapshots = [[o.path for o in run_snapshots(Run(f"{where}/{name}"))] for name in ("whole", "cut")]
assert len(snapshots[0]) == 84  # of two averages, after each step
assert [o.name for o in snapshots[0]] == [o.name for o in snapshots[1]]
pairs += [(read_weights(p)[0], read_weights(q)[0]) for p, q in zip(*snapshots)]
moments = [load_optim(folder)["optim"]["state"] for folder in (a, b)]
pairs += [[{(i, k): v for i, kept in state.items() for k, v in kept.items()} for state in moments]]
for p, q in pairs:
    assert p.keys() == q.keys()
    assert all(torch.equal(p[k], q[k]) for k in p)

def losses(name):
    rows = map(json.loads, open(f"{where}/{name}/metrics.jsonl"))
    return [(row["step"], row["loss"]) for row in rows]

assert losses("whole") == losses("cut"), "the log of a run that was cut is that of a run that wasn't"
print(f"{kills} kills, {half} of them in the middle of a save; {whole:.1f} s unbroken", *steps)
'''


def driven(program, *args):
    "Run a program in a process of its own, with one thread: after a fork there are no others."
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    command = [sys.executable, program, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)


EVERY = 1 if os.environ.get("IDDM_ALL_KILLS") else 3  # operation: all of them take two minutes


@pytest.mark.parametrize("mode, kills", [("random", 10), (str(EVERY), 72 // EVERY)], ids=["random", "operations"])
def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path, mode, kills):
    (tmp_path / "driver.py").write_text(DRIVER)
    done = driven(tmp_path / "driver.py", tmp_path, mode)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{kills} kills")
    print(done.stdout)


# ---- a checkpoint of the same name is replaced by two renames

REPLACER = r"""
import os, shutil, signal, sys
from pathlib import Path
from iddm.run import load_run_config
from iddm.trainer import Trainer, save_events

folder, deadly = sys.argv[1:]

def fatal(operation):
    "Kill this process before an operation on a file or folder of the deadly name."
    def wrapped(path, *args, **kw):
        if Path(path).name == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(path, *args, **kw)
    return wrapped

trainer = Trainer(load_run_config(folder))
Path.rename = fatal(Path.rename)
shutil.rmtree = fatal(shutil.rmtree)
for _ in save_events(trainer):  # at the step of the checkpoint that it resumes from, so under the same name
    pass
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "The run `whole` of two epochs, and `cut`, which is what lay there after the first."
    folder = tmp_path_factory.mktemp("runs")
    config = TrainConfig(
        image_size=8, widths=(32,), attention=(), dropout=.1, batch_size=600, epochs=2, save_interval=1,
        sample_interval=0, precision="fp32", device="cpu", result_path=str(folder), run_name="whole")
    trainer = Trainer(config)
    for event in trainer.fit():
        if event.kind == "checkpoint" and event.epoch == 1:
            shutil.copytree(trainer.run.folder, folder / "cut")
    return folder


@pytest.mark.parametrize("deadly, left", [
    pytest.param("epoch_001", ["epoch_001", ".epoch_001.new"], id="before the first rename"),
    pytest.param(".epoch_001.new", [".epoch_001.swap", ".epoch_001.new"], id="between the renames"),
    pytest.param(".epoch_001.swap", ["epoch_001", ".epoch_001.swap"], id="after the second rename"),
])
def test_a_checkpoint_that_a_kill_caught_while_it_was_replaced_is_resumed_from(runs, tmp_path, deadly, left):
    cut = Run(shutil.copytree(runs / "cut", tmp_path / "cut"))
    (tmp_path / "replacer.py").write_text(REPLACER)
    done = driven(tmp_path / "replacer.py", cut, deadly)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert {path.name for path in cut.checkpoints.iterdir()} == {"last", *left}

    steps = [event.step for event in Trainer(load_run_config(cut.folder)).fit() if event.kind == "step"]
    assert steps == [3, 4]
    assert {path.name for path in cut.checkpoints.iterdir()} == {"last", "epoch_002"}
    assert_same_bits(Run(runs / "whole").epoch_checkpoint(2), cut.epoch_checkpoint(2))


def assert_same_bits(a, b):
    "Assert that two checkpoints hold the same weights, raw and EMA, and the same moments."
    for name in ("model.safetensors", "ema_model.safetensors"):
        torch.testing.assert_close(read_weights(a / name)[0], read_weights(b / name)[0], rtol=0, atol=0)
    torch.testing.assert_close(load_optim(a)["optim"]["state"], load_optim(b)["optim"]["state"], rtol=0, atol=0)
