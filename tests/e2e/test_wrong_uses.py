"""Wrong uses of the commands and of the Python doors: each gets one line that says what is wrong, before any
work begins, and nothing is written. A row is one wrong use."""
import dataclasses
import math
import os
import re
import shutil
import struct
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iddm.bench
import iddm.evaluate
import iddm.generate
import iddm.sweep
import iddm.train
from iddm import TrainConfig, Trainer, load, run_config, sample
from iddm.dataset import ImageDataset
from iddm.evaluate import EvalConfig
from iddm.generate import GenerateConfig

SMALL = dict(image_size=8, widths=(32,), attention=(), epochs=1, batch_size=600, sample_steps=2, precision="fp32",
             device="cpu")
TINY = ("--image_size 8 --widths 32 --attention [] --batch_size 600 --sample_steps 2 --precision fp32 "
        "--device cpu").split()
COMMANDS = {"iddm-train": iddm.train.main, "iddm-generate": iddm.generate.main, "iddm-bench": iddm.bench.main,
            "iddm-eval": iddm.evaluate.main, "iddm-sweep": iddm.sweep.main}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a trained run `results/df`, one of larger images, some images, and many files that lie."
    here = tmp_path_factory.mktemp("wrong")
    train_run(here)
    train_run(here, image_size=16, run_name="large")
    (here / "bare/run").mkdir(parents=True)
    shutil.copy(here / "results/df/config.yaml", here / "bare/run")
    shutil.copytree(here / "results/df", here / "lies/df")
    (here / "lies/df/metrics.json").write_text("{")
    images(here)
    tables(here)
    settings(here)
    weights(here)
    return here


def train_run(here: Path, **changes) -> None:
    given = SMALL | dict(sample_interval=0, result_path=str(here / "results")) | changes
    for _ in Trainer(TrainConfig(**given)).fit():
        pass


def images(here: Path) -> None:
    noise = np.random.default_rng(0)
    for name in ("pets/cat", "pets/dog", "nested/train/cat", "nested/train/dog", "hole/cat", "flat"):
        (here / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(noise.integers(0, 255, (9, 9, 3), np.uint8)).save(here / name / f"{i}.png")
    (here / "hole/dog").mkdir()
    for name in ("empty", "texts", "broken", "one"):
        (here / name).mkdir()
    (here / "texts/readme.txt").write_text("no image")
    (here / "broken/a.png").write_bytes(b"\x89PNG, and no more")
    Image.new("L", (9, 9)).save(here / "one/a.png")
    (here / "a.zip").write_bytes(b"PK\x03\x04")
    Image.new("L", (9, 9)).save(here / "photo.png")
    Image.new("L", (5, 7)).save(here / "mask.png")
    (here / "half.png").write_bytes((here / "photo.png").read_bytes()[:40])
    (here / "notes.txt").write_text("not an image")
    (here / "empty.png").touch()


def tables(here: Path) -> None:
    "Training files as MNIST has them, each wrong in a way of its own."
    def idx(folder, images, labels):
        (here / folder).mkdir()
        (here / folder / "train-images-idx3-ubyte").write_bytes(images)
        (here / folder / "train-labels-idx1-ubyte").write_bytes(labels)
    def head(*shape, kind=8): return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}i", *shape)
    good_images, good_labels = head(2, 3, 3) + bytes(18), head(2) + bytes(2)
    idx("idx_short", b"\0\0\x08", good_labels)
    idx("idx_cut", good_images[:-1], good_labels)
    idx("idx_more_labels", good_images, head(3) + bytes(3))
    idx("idx_fewer_labels", good_images, head(1) + bytes(1))
    idx("idx_floats", head(2, 3, 3, kind=13) + bytes(72), good_labels)
    idx("idx_negative", head(-2, 3, 3) + bytes(18), good_labels)
    idx("idx_huge", head(2**31 - 1, 2**31 - 1, 2**31 - 1) + bytes(18), good_labels)
    idx("idx_flat", head(18) + bytes(18), good_labels)


def settings(here: Path) -> None:
    files = dict(
        number="3", text="just text", list="- 1\n- 2\n", unknown="epoks: 3\n", wrong="epochs: many\n",
        nested="epochs:\n  a: 1\n", tab="a:\tb: c\n", null="epochs: null\n", choice="optim: sgd\n", bomb=bomb(),
        sweep="bass: {epochs: 3}\n", value="choices: {optim: [adam, sgd]}\n", many="evaluate: many\n",
        few="base: {dataset_path: pets, image_size: 8, widths: [32], batch_size: 8}\nevaluate: 100\n")
    for name, text in files.items():
        (here / f"{name}.yaml").write_text(text)
    (here / "binary.yaml").write_bytes(bytes(range(256)))


def bomb() -> str:
    "Nine lines of YAML that stand for a billion values."
    names = "abcdefghi"
    rows = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in zip(names, names[1:])]
    return "\n".join(rows)


def weights(here: Path) -> None:
    "Checkpoints and weights files that are damaged, or something else."
    (here / "pickle.pt").write_bytes(b"\x80\x04.")
    (here / "text.safetensors").write_text("text")
    (here / "nothing.safetensors").touch()
    (here / "liar.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    good = (here / "results/df/checkpoints").glob("epoch_*/ema_model.safetensors")
    (here / "half.safetensors").write_bytes(next(good).read_bytes()[:999])


def wrong(command, *args, say):
    return pytest.param(command, args, say, id=" ".join([command.removeprefix("iddm-"), *map(str, args)])[:100])


def train(*args, say): return wrong("iddm-train", *args, say=say)
def generate(*args, say): return wrong("iddm-generate", *args, say=say)
def bench(*args, say): return wrong("iddm-bench", *args, say=say)
def judge(*args, say): return wrong("iddm-eval", *args, say=say)
def sweep(*args, say): return wrong("iddm-sweep", *args, say=say)


# ---- every flag of every command: a value of another type, and one beyond each end of what is allowed

def numbers(config):
    "Names of fields that hold whole numbers, and of those that hold any numbers."
    kinds = {f.name: {f.type, *typing.get_args(f.type)} for f in dataclasses.fields(config)}
    whole = [name for name, kind in kinds.items() if int in kind and str not in kind]
    return whole, [name for name, kind in kinds.items() if float in kind]


def flags(command, config):
    whole, real = numbers(config)
    for name in whole:
        for value in ("many", "2.5", "", "1e400", "-7"):
            yield wrong(command, f"--{name}={value}", say=f"{name} ")
    for name in real:
        for value in ("fast", "nan", "", "-1000", "1,5"):
            yield wrong(command, f"--{name}={value}", say=f"--{name} ")
    for f in dataclasses.fields(config):
        choice = next((o for o in (f.type, *typing.get_args(f.type)) if typing.get_origin(o) is typing.Literal), None)
        if choice:
            yield wrong(command, f"--{f.name}=magic", say=f"--{f.name} magic: choose from")
        if bool in (f.type, *typing.get_args(f.type)):
            yield wrong(command, f"--{f.name}=maybe", say="choose True or False")


FLAGS = [*flags("iddm-train", TrainConfig), *flags("iddm-generate", GenerateConfig), *flags("iddm-eval", EvalConfig)]

# ---- what people type

TYPED = [
    train("--bogus", "1", say="unknown flag --bogus"),
    train("--epoks", "3", say="did you mean --epochs"),
    train("---epochs", "3", say="did you mean --epochs"),
    train("-epochs", "3", say="did you mean --epochs"),
    train("--Epochs", "3", say="did you mean --epochs"),
    train("--batch-size", "3", say="did you mean --batch_size"),
    train("train", say="train"),
    train("pets", say="pets"),
    train("--epochs", say="--epochs needs a value"),
    train("--epochs", "--lr", "1", say="--epochs needs a value"),
    train("--config", say="--config"),
    train("--config", "no.yaml", say="no.yaml"),
    train("--config", "pets", say="pets"),
    train("--widths", "a,b", say="--widths"),
    train("--widths", "", say="--widths"),
    train("--widths", "[", say="widths"),
    train("--widths", "33", say="--widths|widths"),
    train("--widths", "0", say="widths"),
    train("--widths", "-32", say="widths"),
    train("--widths", "1048576,1048576", say="widths|memory"),
    train("--attention", "5", say="--attention 5: no feature map"),
    train("--patch", "3", say="patch 3: choose 1, 2 or 4"),
    train("--image_size", "30", "--widths", "null", say="image_size 30"),
    train("--image_size", "8", "--widths", "32,32,32,32,32", say="image_size 8"),
    train("--dataset_path", "", say="dataset_path"),
    train("--dataset_path", "missing", say="no such folder"),
    train("--dataset_path", "a.zip", say="a.zip"),
    train("--dataset_path", "photo.png", say="photo.png"),
    train("--dataset_path", "empty", say="no image"),
    train("--dataset_path", "texts", say="no image"),
    train("--dataset_path", "broken", say="can be read"),
    train("--dataset_path", "nested", say="nested"),
    train("--dataset_path", "idx_short", say="idx"),
    train("--dataset_path", "idx_cut", say="idx"),
    train("--dataset_path", "idx_more_labels", say="labels"),
    train("--dataset_path", "idx_fewer_labels", say="labels"),
    train("--dataset_path", "idx_floats", say="idx"),
    train("--dataset_path", "idx_negative", say="idx"),
    train("--dataset_path", "idx_huge", say="idx"),
    train("--dataset_path", "idx_flat", say="idx"),
    train("--dataset_path", "one", say="--batch_size 600"),
    train("--dataset_path", "pets", say="--batch_size 600"),
    train("--dataset_path", "pets", "--batch_size", "8", "--num_classes", "3", say="--num_classes 3"),
    train("--dataset_path", "flat", "--batch_size", "8", "--conditional", "True", say="--conditional True"),
    train("--dataset_path", "mnist", "--data_root", "no/where", say="mnist"),
    train("--batch_size", "100000000", say="--batch_size 100000000"),
    train("--grad_accum", "1000", say="--grad_accum 1000"),
    train("--run_name", "../x", say="--run_name"),
    train("--run_name", "a/b", say="--run_name"),
    train("--run_name", "", say="--run_name"),
    train("--run_name", ".", say="--run_name"),
    train("--run_name", "cache", say="--run_name"),
    train("--run_name", "df", say="already holds a run"),
    train("--resume", "True", "--run_name", "nothing", say="--resume True"),
    train("--resume", "True", "--overwrite", "True", say="choose one"),
    train("--resume", "True", "--run_name", "df", say="--epochs 1|has 1 already"),
    train("--resume", "True", "--run_name", "df", "--seed", "3", "--epochs", "2", say="--seed 3"),
    train("--resume", "True", "--run_name", "df", "--widths", "64", "--epochs", "2", say="--widths"),
    train("--resume", "True", "--run_name", "df", "--snr_shift", "2", "--epochs", "2", say="--snr_shift 2.0"),
    train("--resume", "True", "--run_name", "df", "--start_epoch", "9", say="--start_epoch 9"),
    train("--resume", "True", "--run_name", "new", "--load_model_dir", "gone", say="gone"),
    train("--start_epoch", "1", say="--start_epoch 1: needs --resume True"),
    train("--load_model_dir", "df", say="--load_model_dir df: needs --resume True"),
    train("--start_model_interval", "3", say="needs --save_model_interval True"),
    train("--num_vis", "0", say="--num_vis 0"),
    train("--ema_decay", "0.999", say="half-life"),
    train("--ema_halflife", "0.999", say="half-life"),
    train("--ema_decay", "-1", say="--ema_halflife -1.0: give a number of at least 0 .ema_decay is another name"),
    train("--ema_decay", "many", say="--ema_decay many: give a number"),
    train("--ema_dekay", "1", say="did you mean --ema_halflife"),
    train("--fp16", "True", "--precision", "fp32", say="choose one"),
    train("--prediction", "eps", "--noise_schedule", "edm", "--prediction", "magic", say="--prediction magic"),
    train("--snr_shift", "0", say="--snr_shift 0.0: give a number from 0.01 to 100"),
    train("--snr_shift", "-2", say="--snr_shift -2.0: give a number from 0.01 to 100"),
    train("--snr_shift", "nan", say="--snr_shift nan: give a number"),
    train("--snr_shift", "101", say="--snr_shift 101.0: give a number from 0.01 to 100"),
    train("--snr_shift", "more", say="--snr_shift more: give a number"),
    train("--device", "quantum", say="--device quantum"),
    train("--device", ":", say="--device ':'"),
    train("--device", "", say="--device"),
    train("--device", "cuda:99", say="--device cuda:99"),
    train("--device", "meta", say="--device meta"),
    train("--world_size", "2", say="--world_size 2: needs --distributed True"),
    train("--distributed", "True", "--batch_size", "601", say="--batch_size 601"),
    train("--distributed", "True", "--main_gpu", "5", say="--main_gpu 5"),
    train("--exact_shards", "7", say="--exact_shards 7"),
    train("--shard", "True", say="--shard True"),
    train("--shard", "True", "--exact_shards", "2", say="choose one"),
    train("--label_drop", "0", "--cfg_scale", "3", say="label_drop|cfg_scale"),
    train("--label_drop", "1", "--cfg_scale", "3", say="label_drop|cfg_scale"),
    *(train("--config", f"{o}.yaml", say=f"{o}.yaml|config")
      for o in ("number", "text", "list", "nested", "tab", "binary", "bomb")),
    train("--config", "unknown.yaml", say="epoks"),
    train("--config", "wrong.yaml", say="epochs"),
    train("--config", "null.yaml", say="epochs"),
    train("--config", "choice.yaml", say="optim"),
    generate("--bogus", say="unknown flag --bogus"),
    generate("cat", say="cat"),
    generate("--weight_path", "missing", say="no such file or folder"),
    generate("--weight_path", "", say="weight_path"),
    generate("--weight_path", "empty", say="no checkpoint in it"),
    generate("--weight_path", "notes.txt", say="notes.txt"),
    generate("--weight_path", "pickle.pt", say="pickle"),
    *(generate("--weight_path", f"{o}.safetensors", say=f"{o}.safetensors")
      for o in ("text", "nothing", "liar", "half")),
    generate("--weight_path", "results/df/checkpoints/epoch_099", say="no such file or folder"),
    generate("--weight_path", "results/df/config.yaml", say="config.yaml"),
    generate("--class_name", "11", say="--class_name 11: choose -1 for all"),
    generate("--class_name", "-2", say="--class_name -2"),
    generate("--class_name", "cat", say="--class_name cat"),
    generate("--class_name", "", say="--class_name"),
    generate("--class_name", "01", say="--class_name 01"),
    generate("--class_name", "0x1", say="--class_name 0x1"),
    generate("--class_name", "1e0", say="--class_name 1e0"),
    generate("--class_name", "+1", say="--class_name \\+1"),
    generate("--class_name", "yes", say="--class_name yes"),
    generate("--class_name", "null", say="--class_name null"),
    generate("--sample", "magic", say="--sample magic: choose from ddim"),
    generate("--sample", "heun", "--eta", "1", say="--eta 1.0: heun has no eta"),
    generate("--spacing", "even", say="--spacing even"),
    generate("--steps", "1001", say="--steps 1001"),
    generate("--steps", "0", say="--steps 0"),
    generate("--num_images", "0", say="--num_images 0"),
    generate("--batch_size", "0", say="--batch_size 0"),
    generate("--strength", "0.5", say="--strength 0.5: needs --init_image"),
    generate("--mask", "mask.png", say="--mask mask.png: needs --init_image"),
    generate("--init_image", "missing.png", say="missing.png: no such file"),
    generate("--init_image", "notes.txt", say="notes.txt"),
    generate("--init_image", "half.png", say="half.png"),
    generate("--init_image", "empty.png", say="empty.png"),
    generate("--init_image", "pets", say="pets"),
    generate("--init_image", "photo.png", "--mask", "mask.png", say="make a mask of 9x9 pixels"),
    generate("--init_image", "photo.png", "--mask", "missing.png", say="missing.png"),
    generate("--init_image", "photo.png", "--strength", "2", say="--strength 2.0"),
    generate("--generate_name", "a/b", say="--generate_name"),
    generate("--generate_name", "..", say="--generate_name"),
    generate("--generate_name", "", say="--generate_name"),
    generate("--result_path", "notes.txt", say="notes.txt"),
    generate("--device", "quantum", say="--device quantum"),
    generate("--conditional", "False", say="--conditional False"),
    generate("--image_size", "16", say="--image_size 16"),
    generate("--num_classes", "3", say="--num_classes 3"),
    generate("--act", "relu", say="--act relu"),
    bench("--rounds", "0", say="--rounds"),
    bench("--rounds", "-1", say="--rounds"),
    bench("--rounds", "many", say="--rounds"),
    bench("--bogus", "1", say="--bogus"),
    train("--holdout", "1.5", say="--holdout 1.5: give"),
    train("--holdout", "10%", say="--holdout 10%"),
    train("--holdout", "0.00001", say="--holdout 1e-05: no image is held out of 1797"),
    train("--metrics_interval", "1", "--holdout", "0.005", say="--metrics_interval 1: there are .* 20 are the least"),
    train("--metric_interval", "1", say="did you mean --metrics_interval"),
    train("--ema_snapshots", "1001", say="--ema_snapshots 1001"),
    train("--ema_snapshots", "4", "--shard", "True", say="--shard True"),
    train("--ema_std", "0.1", say="unknown flag --ema_std"),
    generate("--ema_std", "0.1", say="no snapshots of averages; .* --ema_snapshots 16"),
    generate("--ema_std", "0.5", say="--ema_std 0.5"),
    generate("--ema_std", "0.1", "--ema", "False", say="--ema False with --ema_std 0.1: choose one"),
    judge("missing", say="missing.*no such file or folder"),
    judge("", say="^iddm-eval: run '': give"),
    judge("results/df", "missing", say="missing.*no such file or folder"),
    judge("empty", say="^iddm-eval: run 'empty': no checkpoint in it"),
    judge("bare/run", say="run.*no checkpoint"),
    judge("notes.txt", say="notes.txt"),
    judge("results", say="run 'results': no checkpoint in it; give a run .results/df."),
    judge("results/df", "results/large", say="df samples images of .*large of .*one at a time"),
    judge("results/df", "lies/df", say="metrics.json: not JSON; mend it"),
    judge("--num_images", "5000", say="--num_images 5000: there are"),
    judge("--num_images", "19", say="--num_images 19"),
    judge("--features", "vgg", say="--features vgg: choose from"),
    judge("--features", "inception", say="inception: needs one package more|no such file"),
    judge("--steps", "1001", say="--steps 1001"),
    judge("--cfg_scale", "1000", say="cfg_scale"),
    judge("--cfg_scale", "nan", say="cfg_scale"),
    judge("--device", "quantum", say="--device quantum"),
    judge("--numimages", "100", say="did you mean --num_images"),
    judge("--num_images", "100", "results/df", say="results/df"),
    sweep(say="give one YAML file"),
    sweep("a.yaml", "b.yaml", say="give one YAML file"),
    sweep("missing.yaml", say="missing.yaml: no such file"),
    sweep("pets", say="pets: not a file"),
    sweep("--seeds", "3", say="give one YAML file"),
    *(sweep(f"{o}.yaml", say=f"^iddm-sweep: {o}.yaml: ") for o in ("number", "text", "list", "tab", "binary", "bomb")),
    sweep("unknown.yaml", say="unknown setting epoks"),
    sweep("sweep.yaml", say="unknown setting bass: did you mean base"),
    sweep("value.yaml", say="optim sgd: choose from"),
    sweep("many.yaml", say="evaluate many: give a whole number"),
    sweep("few.yaml", say="seed=0: evaluate 100: .* real images to measure the floor with"),
]


def files(place: Path) -> list[Path]:
    "All files, but not those of the cache of decoded images: that may be filled before something else is found wrong."
    return sorted(o for o in place.rglob("*") if o.is_file() and "cache" not in o.parts)


@pytest.mark.parametrize("command, args, say", TYPED + FLAGS)
def test_a_command_says_in_a_line_what_is_wrong(place, monkeypatch, capfd, command, args, say):
    monkeypatch.chdir(place)
    given = {arg.split("=")[0] for arg in args}
    is_new = command == "iddm-train" and not {"--run_name", "--resume"} & given
    new = ["--run_name", "new"] if is_new else []
    tiny = TINY if command == "iddm-train" and "--resume" not in args else []
    before = files(place)
    with pytest.raises(SystemExit) as end:
        COMMANDS[command]([*tiny, *new, *args])
    out, err = capfd.readouterr()
    assert end.value.code == 2, err
    assert out == ""
    assert re.fullmatch(f"{command}: .+\n", err)
    assert re.search(say, err)
    assert len(err) < 700
    assert files(place) == before


# ---- the Python doors

def python(what, call, say, error=ValueError): return pytest.param(call, say, error, id=what)


def flat(n=8, classes=("a", "b"), labels=None, images=None):
    "Eight images of two classes, or something that only looks like it."
    x = torch.zeros(n, 1, 8, 8, dtype=torch.uint8) if images is None else images
    return ImageDataset(x, torch.arange(n) % 2 if labels is None else labels, classes)


CONFIGS = [
    dict(epochs=2.5), dict(epochs="3"), dict(epochs=True), dict(epochs=None), dict(epochs=math.nan), dict(epochs=[1]),
    dict(lr="fast"), dict(lr=math.nan), dict(lr=math.inf), dict(lr=-1), dict(lr=True), dict(batch_size=0),
    dict(batch_size="64"), dict(sample="foo"), dict(sample=3), dict(precision="fp8"), dict(precision=None),
    dict(device=3), dict(device=None), dict(optim="sgd"), dict(optim=torch.optim.Adam), dict(widths=32),
    dict(widths="32"), dict(widths=(32.5,)), dict(widths=()), dict(widths=("a",)), dict(attention=4), dict(channels=2),
    dict(channels="rgb"), dict(channels=True), dict(image_size=8.5), dict(image_size="16"), dict(image_size=10**9),
    dict(dataset_path=None), dict(dataset_path=7), dict(run_name=7), dict(run_name=None), dict(run_name="a\0b"),
    dict(resume="yes"), dict(resume=1), dict(hflip="no"), dict(seed=-1), dict(seed=2**80), dict(seed=1.5),
    dict(num_workers=-1), dict(dropout=1), dict(dropout="none"), dict(label_drop=2), dict(label_drop=math.nan),
    dict(noise_schedule="pink"), dict(noise_schedule=len), dict(prediction="x1"), dict(loss="l3"), dict(loss_weight=2.),
    dict(loss_weight="snr"),
    dict(snr_shift=0), dict(snr_shift=-1), dict(snr_shift=math.nan), dict(snr_shift=1e9), dict(snr_shift="2"),
    dict(snr_shift=None), dict(act="tanhh"), dict(grad_clip=-1.), dict(ema_decay=.999), dict(ema_decay=-1),
    dict(ema_halflife=.5), dict(save_minutes="ten"), dict(conditional="maybe"),
]
GENERATES = [
    dict(num_images=0), dict(num_images=2.5), dict(num_images="8"), dict(steps=0), dict(steps=5.5), dict(steps="all"),
    dict(sample="foo"), dict(cfg_scale="high"), dict(cfg_scale=math.nan), dict(eta=2), dict(eta="some"), dict(seed=-1),
    dict(seed="x"), dict(spacing="odd"), dict(batch_size=0), dict(batch_size=1.5), dict(strength=.5),
    dict(mask="mask.png"), dict(class_name=2.5), dict(class_name=None), dict(class_name=True), dict(class_name=["a"]),
    dict(class_name=10), dict(class_name=-2), dict(save_steps="mp4"), dict(ema="no"), dict(init_image=7),
    dict(generate_name="a/b"), dict(device=7),
]


@pytest.mark.parametrize("wrong", CONFIGS, ids=str)
def test_settings_from_python_are_checked_as_flags_are(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}") as error:
        TrainConfig(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", GENERATES, ids=str)
def test_what_is_wrong_with_sampling_is_told_from_python(place, monkeypatch, wrong):
    monkeypatch.chdir(place)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}") as error:
        sample(load("results/df", device="cpu"), **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", ["x", None, 3, dict(epochs=3), TrainConfig], ids=str)
def test_a_trainer_takes_settings_and_nothing_else(config):
    with pytest.raises(ValueError, match=r"Trainer\(.*give settings, Trainer\(TrainConfig"):
        Trainer(config)


DOORS = [
    python("load nothing", lambda: load("missing"), "missing"),
    python("load a number", lambda: load(7), "7", (TypeError, ValueError)),
    python("load None", lambda: load(None), "None", (TypeError, ValueError)),
    python("load a folder without a run", lambda: load("empty"), "no checkpoint in it"),
    python("load on no device", lambda: load("results/df", device="quantum"), "quantum"),
    python("run_config of nothing", lambda: run_config("missing"), "missing"),
    python("run_config with a field that isn't there",
           lambda: run_config("results/df", epoks=3), "epoks.*epochs", (TypeError, ValueError)),
    python("run_config with a value that can't be", lambda: run_config("results/df", epochs=0), "epochs 0"),
    python("sample with a field that isn't there",
           lambda: sample(load("results/df"), stepps=3), "stepps", (TypeError, ValueError)),
    python("sample from a path", lambda: sample("results/df"), "load", (TypeError, ValueError)),
    python("a trainer of text", lambda: Trainer("results/df"), "TrainConfig", (TypeError, ValueError)),
    python("a trainer of nothing", lambda: Trainer(None), "TrainConfig", (TypeError, ValueError)),
    python("a trainer of generate's settings",
           lambda: Trainer(GenerateConfig()), "TrainConfig", (TypeError, ValueError)),
    python("data of floats", lambda: fit(flat(images=torch.zeros(8, 1, 8, 8))), "uint8"),
    python("data of the wrong size", lambda: fit(flat(images=torch.zeros(8, 1, 9, 9, dtype=torch.uint8))), "9x9"),
    python("data without channels", lambda: fit(flat(images=torch.zeros(8, 8, 8, dtype=torch.uint8))), "8"),
    python("data with a label too many", lambda: fit(flat(labels=torch.arange(9) % 2)), "label"),
    python("data with a label beyond its classes", lambda: fit(flat(labels=torch.full((8,), 2))), "label"),
    python("data with a negative label", lambda: fit(flat(labels=torch.full((8,), -1))), "label"),
    python("data of two channels", lambda: fit(flat(images=torch.zeros(8, 2, 8, 8, dtype=torch.uint8))), "1 or 3"),
    python("data that is a list", lambda: fit([1, 2]), "Data", (TypeError, ValueError)),
    python("no images", lambda: fit(flat(0)), "0 "),
]


def fit(data):
    config = TrainConfig(**(SMALL | dict(batch_size=8)), run_name="python", result_path="results")
    for _ in Trainer(config, data=data).fit():
        pass


@pytest.mark.parametrize("call, say, error", DOORS)
def test_the_python_doors_say_in_a_line_what_is_wrong(place, monkeypatch, call, say, error):
    monkeypatch.chdir(place)
    with pytest.raises(error, match=say) as raised:
        call()
    assert "\n" not in str(raised.value)
    assert not os.path.exists("results/python")
