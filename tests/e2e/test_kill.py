"A run that is killed at any moment and goes on ends in the same bits. On Windows there is no SIGKILL."
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL, which Windows lacks")

DRIVER = r'''
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from iddm.checkpoints import load_optim, read_weights
from iddm.dataset import load_digits
from iddm.recording import record
from iddm.run import load_checkpoint, resolve_checkpoint
from iddm.trainer import TrainConfig, Trainer

where, mode = sys.argv[1:]
data = load_digits(8)

def run(name, resume, deadly=None):
    "Train in a process of its own, which saves after every step; before file operation number `deadly` it kills itself."
    if pid := os.fork(): return pid
    if deadly is not None:
        count = 0
        def fatal(f):
            def g(*args, **kw):
                nonlocal count
                if count == deadly: os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return f(*args, **kw)
            return g
        os.fsync, Path.rename, Path.replace, shutil.rmtree = map(fatal, (os.fsync, Path.rename, Path.replace, shutil.rmtree))
    trainer = Trainer(TrainConfig(image_size=8, widths=(32,), attention=(), dropout=.1, batch_size=256, epochs=6, sample_interval=0, save_minutes=1e-9, keep=2,
                                  precision="fp32", device="cpu", result_path=where, run_name=name, resume=resume), data)
    for _ in record(trainer.fit(), trainer): pass
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
whole, kills, half, resume, steps = time.monotonic() - start, 0, 0, False, []
if mode == "random":
    random.seed(1)
    while kills < 10:
        log = Path(where, "cut", "metrics.jsonl")
        seen, pid = log.stat().st_size if log.exists() else 0, run("cut", resume)
        while kills > 1 and log.stat().st_size <= seen: time.sleep(.001)  # the first two may come before the first step
        time.sleep(random.uniform(0, whole / 15))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == signal.SIGKILL, "it was done before ten kills"
        steps.append(resolve_checkpoint(f"{where}/cut").name if Path(where, "cut/checkpoints/last").exists() else "none")
        kills, resume = kills + 1, os.path.exists(f"{where}/cut/config.yaml")
        half += bool(list(Path(where).glob("cut/checkpoints/.*")))
else:
    for deadly in range(24):  # a save makes about a dozen file operations, the second has to sweep up after the first, and the third deletes
        shutil.rmtree(f"{where}/cut", ignore_errors=True)
        assert ended(run("cut", False, deadly)) == signal.SIGKILL
        half += bool(list(Path(where).glob("cut/checkpoints/.*")))
        assert ended(run("cut", True, deadly + 7)) == signal.SIGKILL
        kills += 2
assert ended(run("cut", True)) == 0
a, b = (resolve_checkpoint(f"{where}/{name}") for name in ("whole", "cut"))
pairs = [(read_weights(a / o)[0], read_weights(b / o)[0]) for o in ("model.safetensors", "ema_model.safetensors")]
pairs += [({(i, k): v for i, own in load_optim(o)["optim"]["state"].items() for k, v in own.items()} for o in (a, b))]
for p, q in pairs:
    assert p.keys() == q.keys() and all(torch.equal(p[k], q[k]) for k in p)
lines = [[(o["step"], o["loss"]) for o in map(__import__("json").loads, open(f"{where}/{name}/metrics.jsonl"))] for name in ("whole", "cut")]
assert lines[0] == lines[1], "the log of a run that was cut is that of a run that wasn't"
print(f"{kills} kills, {half} of them in the middle of a save; {whole:.1f} s unbroken", *steps)
'''


@pytest.mark.parametrize("mode, kills", [("random", 10), ("each operation", 48)])
def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path, mode, kills):
    (tmp_path / "driver.py").write_text(DRIVER)
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[2]))  # one thread: after a fork there are no others
    done = subprocess.run([sys.executable, tmp_path / "driver.py", str(tmp_path), mode], env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{kills} kills")
    print(done.stdout)
