"""A run that an earlier version made loads, samples the same images, and resumes with the same losses.

`old_run/` holds what that version wrote about two small networks: settings, metadata, images and losses. Weights and the
state of the optimizer are made by a formula (`tensor`), so that no large file is kept.
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

from iddm.config import load_run_config
from iddm.generate import load, sample
from iddm.train import parse_command_line
from iddm.trainer import Trainer

OLD = Path(__file__).with_name("old_run")
RUNS = "widths_32", "widths_32_64"


def tensor(kind: str, name: str, shape: list[int]) -> torch.Tensor:
    "Uniform numbers from the raw bits of numpy's Philox, keyed by kind and name, of the size that a fresh layer has."
    bits = np.random.Philox(key=zlib.crc32(f"{kind} {name}".encode())).random_raw(math.prod(shape))
    uniform = torch.from_numpy((bits >> 11) * 2.**-52 - 1).float().reshape(shape)  # in [-1, 1)
    fan_in = math.prod(shape[1:])
    return uniform / fan_in**.5 if len(shape) > 1 else .1 * uniform + ("norm" in name and name.endswith("weight"))


def make_run(root: Path, name: str) -> Path:
    "Write the folder that the earlier version left after the first epoch."
    run, shapes = root / name, json.loads((OLD / name / "shapes.json").read_text())
    folder = run / "checkpoints" / "epoch_001"
    folder.mkdir(parents=True)
    meta = (OLD / name / "state.json").read_text()
    for file, kind in ("model", "net"), ("ema_model", "ema"):
        weights = {k: tensor(kind, k, shape) for k, shape in shapes.items()}
        save_file(weights, folder / f"{file}.safetensors", metadata=dict(iddm=meta))
    moments = {i: dict(step=torch.tensor(2.), exp_avg=.01 * tensor("mean", k, shape), exp_avg_sq=.01 * tensor("square", k, shape)**2)
               for i, (k, shape) in enumerate(shapes.items())}  # in the order of the network's parameters
    group = json.loads((OLD / name / "optim.json").read_text()) | dict(params=list(moments))
    torch.save(dict(optim=dict(state=moments, param_groups=[group]), scaler={}), folder / "optim.pt")
    (folder / "state.json").write_text(meta)
    (folder.parent / "last").write_text(folder.name)
    shutil.copy(OLD / name / "config.yaml", run)
    return run


def expected(name: str) -> dict:
    return json.loads((OLD / name / "expected.json").read_text())


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
    assert losses(trainer) == pytest.approx(expected(name)["losses"], rel=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_resumes_from_the_command_line_with_the_same_losses(tmp_path, name):
    make_run(tmp_path, name)
    config = parse_command_line(["--resume", "True", "--run_name", name, "--result_path", str(tmp_path)])
    assert losses(Trainer(config)) == pytest.approx(expected(name)["losses"], rel=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_a_new_run_that_begins_from_an_old_one_has_its_losses_and_loads(tmp_path, name):
    make_run(tmp_path, name)
    config = parse_command_line(["--resume", "True", "--load_model_dir", name, "--run_name", "new", "--result_path", str(tmp_path)])
    assert losses(Trainer(config)) == pytest.approx(expected(name)["losses"], rel=1e-5)
    assert sample(load(tmp_path / "new", device="cpu"), num_images=1, steps=1, device="cpu").isfinite().all()
