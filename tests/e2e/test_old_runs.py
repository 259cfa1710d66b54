"""A run that an earlier version made loads, samples the same images, and resumes with the same losses.

`old_run/` holds what that version wrote about small networks: settings, metadata, images and losses. Weights and the
state of the optimizer are made by a formula (`tensor`), so that no large file is kept. Two runs were made before there
was a setting for `groups`, and stopped after an epoch; `dropout_mid_epoch` was made later, and stopped in mid-epoch.
"""
import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import iddm.train
from iddm.generate import load, sample
from iddm.run import load_run_config
from iddm.train import parse_command_line
from iddm.trainer import Trainer

OLD = Path(__file__).with_name("old_run")
MID_EPOCH = "dropout_mid_epoch"
RUNS = "widths_32", "widths_32_64", MID_EPOCH


def tensor(kind: str, name: str, shape: list[int]) -> torch.Tensor:
    "Uniform numbers from the raw bits of numpy's Philox, keyed by kind and name, of the size that a fresh layer has."
    bits = np.random.Philox(key=zlib.crc32(f"{kind} {name}".encode())).random_raw(math.prod(shape))
    uniform = torch.from_numpy((bits >> 11) * 2.**-52 - 1).float().reshape(shape)  # in [-1, 1)
    fan_in = math.prod(shape[1:])
    return uniform / fan_in**.5 if len(shape) > 1 else .1 * uniform + ("norm" in name and name.endswith("weight"))


def make_run(root: Path, name: str) -> Path:
    "Write the folder that the earlier version left when it was stopped."
    run, shapes = root / name, json.loads((OLD / name / "shapes.json").read_text())
    folder = run / "checkpoints" / (OLD / name / "last").read_text()
    folder.mkdir(parents=True)
    meta = (OLD / name / "state.json").read_text()
    step = torch.tensor(float(json.loads(meta)["step"]))
    kinds = dict(model="net", ema_model="ema")
    for file, kind in kinds.items():
        weights = {k: tensor(kind, k, shape) for k, shape in shapes.items()}
        save_file(weights, folder / f"{file}.safetensors", metadata=dict(iddm=meta))
    moments = {}  # in the order of the network's parameters
    for i, (k, shape) in enumerate(shapes.items()):
        mean, square = .01 * tensor("mean", k, shape), .01 * tensor("square", k, shape)**2
        moments[i] = dict(step=step.clone(), exp_avg=mean, exp_avg_sq=square)
    group = json.loads((OLD / name / "optim.json").read_text()) | dict(params=list(moments))
    torch.save(dict(optim=dict(state=moments, param_groups=[group]), scaler={}), folder / "optim.pt")
    (folder / "state.json").write_text(meta)
    shutil.copy(OLD / name / "last", folder.parent)
    for file in ("config.yaml", "metrics.jsonl", "train.log"):
        if (OLD / name / file).exists():
            shutil.copy(OLD / name / file, run)
    return run


def expected(name: str) -> dict:
    return json.loads((OLD / name / "expected.json").read_text())


def near(name: str, what: str) -> object:
    "The losses that a run must have. Without MKL, torch's dropout has other random numbers; then they are close only."
    is_same = name != MID_EPOCH or torch.backends.mkl.is_available()
    return pytest.approx(expected(name)[what], rel=1e-5 if is_same else .02)


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_samples_the_same_images(tmp_path, name, ema):
    model = load(make_run(tmp_path, name), ema=ema, device="cpu")
    x = sample(model, num_images=4, steps=5, cfg_scale=2., seed=0, device="cpu")
    want = torch.tensor(expected(name)["ema" if ema else "raw"])
    torch.testing.assert_close(x.flatten(), want, rtol=0, atol=1e-5)


def losses(trainer: Trainer) -> list[float]:
    return [e.loss for e in trainer.fit() if e.kind == "step"]


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_resumes_from_python_with_the_same_losses(tmp_path, name):
    trainer = Trainer(load_run_config(make_run(tmp_path, name)))
    assert losses(trainer) == near(name, "losses")


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_resumes_from_the_command_line_with_the_same_losses(tmp_path, name):
    make_run(tmp_path, name)
    config = parse_command_line(["--resume", "True", "--run_name", name, "--result_path", str(tmp_path)])
    assert losses(Trainer(config)) == near(name, "losses")


@pytest.mark.parametrize("flag", ["--ema_decay", "--ema_halflife"])
def test_an_old_run_resumes_with_another_half_life_by_either_flag(tmp_path, flag):
    run = make_run(tmp_path, "widths_32")
    argv = ["--resume", "True", "--run_name", run.name, "--result_path", str(tmp_path), flag, "1000"]
    config = parse_command_line(argv)
    assert config.ema_halflife == 1000
    assert losses(Trainer(config)) == near(run.name, "losses")  # they are of the raw weights
    assert "ema_halflife: 1000.0" in (run / "config.yaml").read_text()
    assert load_run_config(run).ema_halflife == 1000


@pytest.mark.parametrize("name", ["ema_decay", "ema_halflife"])
def test_the_half_life_of_an_old_run_is_read_and_changed_by_either_name(tmp_path, name):
    run = make_run(tmp_path, "widths_32")
    assert "ema_decay: 50000.0" in (run / "config.yaml").read_text()
    assert load_run_config(run).ema_halflife == 50_000
    assert load(run, device="cpu").config.ema_halflife == 50_000
    assert load_run_config(run, **{name: 1000}).ema_halflife == 1000


@pytest.mark.parametrize("name", RUNS)
def test_a_new_run_that_begins_from_an_old_one_has_its_losses_and_loads(tmp_path, name):
    make_run(tmp_path, name)
    argv = ["--resume", "True", "--load_model_dir", name, "--run_name", "new", "--result_path", str(tmp_path)]
    config = parse_command_line(argv)
    assert losses(Trainer(config)) == near(name, "losses")
    assert sample(load(tmp_path / "new", device="cpu"), num_images=1, steps=1, device="cpu").isfinite().all()


def test_an_old_run_that_was_stopped_in_mid_epoch_keeps_its_log_and_metrics_when_it_is_resumed(tmp_path):
    run = make_run(tmp_path, MID_EPOCH)
    files = run / "metrics.jsonl", run / "train.log"
    before = [o.read_text() for o in files]
    iddm.train.main(["--resume", "True", "--run_name", MID_EPOCH, "--result_path", str(tmp_path)])
    metrics, log = (o.read_text() for o in files)
    assert metrics.startswith(before[0])
    assert log.startswith(before[1])
    rows = [json.loads(o) for o in metrics.removeprefix(before[0]).splitlines()]
    steps, epochs = ([o for o in rows if o["kind"] == kind] for kind in ("step", "epoch"))
    assert len(rows) == len(steps) + len(epochs)
    assert [o["step"] for o in steps] == [7, 8, 9, 10, 11, 12]
    assert [o["loss"] for o in steps] == near(MID_EPOCH, "losses")
    assert [o["step"] for o in epochs] == [8, 12]
    assert [o["loss"] for o in epochs] == near(MID_EPOCH, "epochs")  # of the first, two steps were before the stop
    assert "from step 6" in log.removeprefix(before[1])
