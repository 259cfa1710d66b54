"The commands as a user types them: in a process of their own, in an empty folder."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

BIN = Path(sys.executable).parent
TINY = ("--image_size 8 --widths 32 --attention [] --batch_size 600 --save_interval 1 --sample_steps 2 --device cpu "
        "--precision fp32").split()


def shell(cwd, command, *args):
    return subprocess.run([BIN / command, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A folder in which a small model was trained."
    cwd = tmp_path_factory.mktemp("shell")
    done = shell(cwd, "iddm-train", *TINY, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    return cwd, done


def test_training_says_where_the_grid_is_and_the_next_command_works(run):
    cwd, done = run
    assert "results/df/vis/epoch_002_ema.png" in done.stdout
    assert (cwd / "results/df/vis/epoch_002_ema.png").is_file()
    command = done.stdout.strip().splitlines()[-1].split()
    assert command == ["iddm-generate", "--weight_path", "results/df"]
    sampled = shell(cwd, *command, "--steps", 2)
    assert sampled.returncode == 0, sampled.stderr
    assert "grid: results/df/generated/001/grid.png" in sampled.stdout
    assert len(list((cwd / "results/df/generated/001").glob("*.png"))) == 11
    assert "sampling 10 images" in sampled.stderr
    assert "loss=" in done.stderr


@pytest.mark.parametrize("module", ["iddm.train", "iddm.generate"])
def test_modules_run_as_programs(run, module):
    cwd, _ = run
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--config" in done.stdout


def test_settings_of_a_run_train_another(run):
    cwd, _ = run
    done = shell(cwd, "iddm-train", "--config", "results/df/config.yaml", "--run_name", "again", "--epochs", 1)
    assert done.returncode == 0, done.stderr
    a, b = (yaml.safe_load((cwd / f"results/{name}/config.yaml").read_text()) for name in ("df", "again"))
    assert {k for k in a if a[k] != b[k]} == {"run_name", "epochs"}


@pytest.mark.parametrize("command, args, say", [
    ("iddm-train", ["--bogus", "1"], "unknown flag --bogus"),
    ("iddm-train", ["--run_name", "new", "--dataset_path", "missing"], "dataset_path 'missing': no such folder"),
    ("iddm-train", ["--image_size", "30"], "image_size 30: no default network for it; choose 28 or 32"),
    ("iddm-train", [], "already holds a run"),
    ("iddm-train", ["--run_name", "new", "--resume", "True"], "no such file or folder"),
    ("iddm-generate", ["--weight_path", "missing"], "no such file or folder"),
    ("iddm-generate", ["--class_name", "11"], "--class_name 11: choose -1 for all, 0 to 9"),
    ("iddm-generate", ["--sample", "magic"], "--sample magic: choose from ddim, ddpm"),
])
def test_bad_input_is_one_line_and_status_2_and_nothing_written(run, command, args, say):
    cwd, _ = run
    before = sorted(cwd.rglob("*"))
    done = shell(cwd, command, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert say in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(command + ": ")
    assert sorted(cwd.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    from PIL import Image
    (tmp_path / "results").write_text("a file, not a folder")
    (tmp_path / "pets").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "pets/a.png")
    done = shell(tmp_path, "iddm-train", *TINY, "--dataset_path", "pets")  # its cache comes first
    assert done.returncode == 2
    assert "results" in done.stderr
    assert done.stderr.count("\n") == 1
    done = shell(tmp_path, "iddm-train", *TINY)
    assert done.returncode == 2
    assert "results" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results").read_text() == "a file, not a folder"


def test_a_folder_of_images_trains_and_broken_files_are_named(tmp_path):
    from PIL import Image
    for name, color in dict(cat="orange", dog="brown").items():
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (30, 20), color).save(tmp_path / "pets" / name / f"{i}.jpg")
    (tmp_path / "pets/cat/broken.png").write_bytes(b"no image")
    (tmp_path / "pets/dog/empty.png").write_bytes(b"")
    pets = ["--dataset_path", "pets", "--batch_size", 8, "--epochs", 1, "--vis", "True"]
    done = shell(tmp_path, "iddm-train", *TINY, *pets)
    assert done.returncode == 0, done.stderr
    assert "left out: 2 files\n    pets/cat/broken.png: " in done.stdout
    assert (tmp_path / "results/df/train.log").read_text().count("left out: pets/") == 2
    assert "cat                         4  30x20" in done.stdout
    assert (tmp_path / "results/df/vis/data/dog.png").is_file()
    sampled = shell(tmp_path, "iddm-generate", "--class_name", "dog", "--num_images", 2, "--steps", 2)
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "results/df/generated/001/0001_dog.png").is_file()
    for path in (tmp_path / "pets/cat").iterdir():
        path.write_bytes(b"")
    done = shell(tmp_path, "iddm-train", *TINY, "--dataset_path", "pets", "--run_name", "new")
    assert done.returncode == 2
    assert "'pets/cat': none of its 5 images can be read; first: pets/cat/0.jpg: an empty file" in done.stderr
    assert not (tmp_path / "results/new").exists()


def start(cwd, *args):
    def own():
        os.setsid()  # a group of its own, to be signalled as a whole
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also when the tests run under nohup
    command = [BIN / "iddm-train", *args]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                            preexec_fn=own)  # noqa: PLW1509 (pytest has no threads here, and a handler needs it)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_finishes_the_step_and_saves_and_the_run_is_resumed(tmp_path, number, workers):
    process = start(tmp_path, *TINY, "--epochs", "5000", "--batch_size", "100", "--sample_interval", "0",
                    "--num_workers", str(workers), "--run_name", "a")
    log = tmp_path / "results/a/metrics.jsonl"
    for _ in range(600):
        if log.exists() and log.stat().st_size:
            break
        time.sleep(.1)
    os.killpg(process.pid, number)  # as a terminal or a queue does: the workers hear it too
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err, err
    assert err.strip().splitlines()[-1].strip() == "iddm-train --resume True --run_name a", err
    checkpoints = tmp_path / "results/a/checkpoints"
    saved = json.loads((checkpoints / (checkpoints / "last").read_text() / "state.json").read_text())
    assert saved["step"] == len([o for o in log.read_text().splitlines() if '"step", ' in o])
    again = shell(tmp_path, "iddm-train", "--resume", "True", "--run_name", "a", "--epochs", saved["epoch"] + 1)
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {saved['step']}" in again.stdout


# the command lines of the older project's README, with our commands in place of `python train.py` and `python
# generate.py`
OLD = dict(
    conditional="--sample ddpm --conditional True --run_name df --epochs 300 --batch_size 16 --image_size 64 "
                "--num_classes 10 --dataset_path DATA --result_path RESULTS",
    unconditional="--sample ddpm --conditional False --run_name df --epochs 300 --batch_size 16 --image_size 64 "
                  "--dataset_path DATA --result_path RESULTS",
    resume="--resume True --start_epoch 10 --load_model_dir df ",
    distributed=" --distributed True --main_gpu 0 --world_size 2",
    sample_conditional="--conditional True --generate_name df --num_images 8 --num_classes 10 --class_name 0 "
                       "--image_size 64 --weight_path WEIGHTS",
    sample_unconditional="--conditional False --generate_name df --num_images 8 --image_size 64 --weight_path WEIGHTS",
)
# so that it takes seconds
LESS = "--widths 32 --attention [] --patch 4 --sample_steps 2 --precision fp32 --device cpu".split()


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_each_command_of_the_older_readme_works(tmp_path, kind):
    from PIL import Image
    is_conditional = kind == "conditional"
    folders = [f"class{i}" for i in range(10)] if is_conditional else ["images"]  # or one folder with all of them
    for name in folders:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for j in range(20 // len(folders)):
            Image.effect_noise((70, 80), 20 + 5 * j).save(folder / f"{j}.jpg")
    line = OLD[kind].replace("DATA", "data").replace("RESULTS", "out")

    keeping = ["--epochs", 10, "--save_model_interval", "True", "--sample_interval", 10]
    first = shell(tmp_path, "iddm-train", *line.split(), *LESS, *keeping)
    assert first.returncode == 0, first.stderr
    assert ("10 classes" if is_conditional else "without classes") in first.stdout
    assert "grey" in first.stdout

    second = shell(tmp_path, "iddm-train", *(OLD["resume"] + line).split(), "--epochs", 12)
    assert second.returncode == 0, second.stderr
    assert "resuming at step 10 of 12" in second.stdout
    kept = {path.name for path in (tmp_path / "out/df/checkpoints").iterdir()}
    assert kept == {"last"} | {f"epoch_{i:03}" for i in range(1, 13)}

    many = line.replace("out", "out2") + OLD["distributed"]
    third = shell(tmp_path, "iddm-train", *many.split(), *LESS, "--epochs", 2, "--sample_interval", 2)
    assert third.returncode == 0, third.stderr
    assert "in 2 processes" in third.stdout
    assert third.stdout.count("sample more") == 1

    asked = OLD[f"sample_{kind}"].replace("WEIGHTS", "out/df").split()
    sampled = shell(tmp_path, "iddm-generate", *asked, "--steps", 2, "--device", "cpu")
    assert sampled.returncode == 0, sampled.stderr
    assert len(list((tmp_path / "out/df/generated/df").glob("0*.png"))) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="needs bash and /dev/full")
@pytest.mark.parametrize("output", ["| head -n 1", "> /dev/full", "2> /dev/full", ">&- 2>&-"])
def test_output_that_fails_costs_no_work(tmp_path, output):
    commands = [["iddm-train", *TINY, "--epochs", "1"], ["iddm-generate", "--num_images", "2", "--steps", "1"]]
    for name, *args in commands:
        line = f"set -o pipefail; {BIN / name} {' '.join(args)} {output}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    assert (tmp_path / "results/df/vis/epoch_001_ema.png").is_file()
    assert (tmp_path / "results/df/generated/001/grid.png").is_file()


def test_a_class_whose_letters_the_output_lacks_is_trained_and_sampled(tmp_path):
    for name in ("猫", "犬"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 40 * i).save(tmp_path / f"pets/{name}/{i}.png")
    env = os.environ | dict(PYTHONIOENCODING="cp1252")
    train = [BIN / "iddm-train", *TINY, "--dataset_path", "pets", "--batch_size", "8", "--epochs", "1"]
    generate = [BIN / "iddm-generate", "--class_name", "猫", "--num_images", "1", "--steps", "1"]
    for command in (train, generate):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=env, timeout=300)
        assert done.returncode == 0, f"{command[0]}: {done.stderr}"
        assert b"\\u732b" in done.stdout, command[0]
