"The commands as a user types them: in a process of their own, in an empty folder."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

BIN = Path(sys.executable).parent
TINY = ("--image_size 8 --channels 32 --attention [] --batch_size 600 --sample_steps 2 --num_vis 2 --device cpu --precision fp32").split()


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
    assert "results/df/vis/epoch_002_ema.png" in done.stdout and (cwd / "results/df/vis/epoch_002_ema.png").is_file()
    command = done.stdout.strip().splitlines()[-1].split()
    assert command == ["iddm-generate", "--weight_path", "results/df"]
    drawn = shell(cwd, *command, "--steps", 2)
    assert drawn.returncode == 0, drawn.stderr
    assert "grid: results/df/generated/001/grid.png" in drawn.stdout
    assert len(list((cwd / "results/df/generated/001").glob("*.png"))) == 11
    assert "drawing" in drawn.stderr and "loss=" in done.stderr  # the bars


def test_modules_run_as_programs(run):
    cwd, _ = run
    for module in ("iddm.train", "iddm.generate"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0 and "--config" in done.stdout


def test_settings_of_a_run_train_another(run):
    cwd, _ = run
    done = shell(cwd, "iddm-train", "--config", "results/df/config.yaml", "--run_name", "again", "--epochs", 1)
    assert done.returncode == 0, done.stderr
    a, b = (yaml.safe_load((cwd / f"results/{name}/config.yaml").read_text()) for name in ("df", "again"))
    assert {k for k in a if a[k] != b[k]} == {"run_name", "epochs"}


@pytest.mark.parametrize("command, args, say", [
    ("iddm-train", ["--bogus", "1"], "unknown flag --bogus"),
    ("iddm-train", ["--run_name", "new", "--dataset_path", "missing"], "dataset_path 'missing': no such folder"),
    ("iddm-train", ["--image_size", "30"], "image_size 30: 3 stages and patch 1 need a multiple of 4, for example 28 or 32"),
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
    assert done.returncode == 2 and done.stdout == ""
    assert say in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith(command + ": ")
    assert sorted(cwd.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "results").write_text("a file, not a folder")
    done = shell(tmp_path, "iddm-train", *TINY)
    assert done.returncode == 2 and "results" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "results").read_text() == "a file, not a folder"


def test_a_folder_of_pictures_trains_and_broken_files_are_named(tmp_path):
    from PIL import Image
    for name, color in (("cat", "orange"), ("dog", "brown")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4): Image.new("RGB", (30, 20), color).save(tmp_path / "pets" / name / f"{i}.jpg")
    (tmp_path / "pets/cat/broken.png").write_bytes(b"no picture")
    done = shell(tmp_path, "iddm-train", *TINY, "--dataset_path", "pets", "--batch_size", 8, "--epochs", 1)
    assert done.returncode == 0 and "left out, not readable: pets/cat/broken.png" in done.stdout, done.stderr
    drawn = shell(tmp_path, "iddm-generate", "--class_name", "dog", "--num_images", 2, "--steps", 2)
    assert drawn.returncode == 0 and (tmp_path / "results/df/generated/001/0001_dog.png").is_file(), drawn.stderr


def test_control_c_says_what_is_saved_and_the_run_goes_on(tmp_path):
    args = [*TINY, "--epochs", "500", "--sample_interval", "0"]
    process = subprocess.Popen([BIN / "iddm-train", *args], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    last = tmp_path / "results/df/checkpoints/last"
    for _ in range(600):
        if last.exists(): break
        time.sleep(.1)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume True" in err and "Traceback" not in err, err
    done = int(last.read_text().split("_")[1])
    again = shell(tmp_path, "iddm-train", *args, "--resume", "True", "--epochs", done + 1)
    assert again.returncode == 0, again.stderr
    assert last.read_text() == f"epoch_{done + 1:03}"
