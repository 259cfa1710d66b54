"Files of a run that are torn or crafted: each door works as ever, or says in one line what is wrong; nothing is lost."
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
import yaml

import iddm.generate
import iddm.train
from iddm.checkpoints import read_weights, write_weights
from iddm.config import TrainConfig
from iddm.generate import load
from iddm.recording import record
from iddm.run import load_run_config
from iddm.trainer import Trainer

LAST = "checkpoints/epoch_002"
BINARY = bytes(range(256)) * 40
DEEP = b"[" * 10**5
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [%s]\n" % (o + 1, o + 1,
    b",".join([b"*%c" % o] * 9)) for o in range(97, 105))
HUGE = b"x" * 10**7


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of two epochs."
    config = TrainConfig(
        image_size=8, widths=(32,), attention=(), batch_size=600, epochs=2, sample_interval=0, device="cpu",
        precision="fp32", save_model_interval=True, result_path=str(tmp_path_factory.mktemp("whole")))
    trainer = Trainer(config)
    for _ in record(trainer.fit(), trainer):
        pass
    return trainer.run.folder


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    "A copy of it, to be damaged."
    monkeypatch.chdir(tmp_path)  # a folder that is no run any more has no place for samples: they come here
    return shutil.copytree(whole, tmp_path / "df")


def state(folder):
    "What lies in a folder: names, sizes and times."
    files = [o for o in sorted(folder.rglob("*")) if o.is_file() or o.is_symlink()]
    return {o: (o.lstat().st_size, o.lstat().st_mtime_ns) for o in files}


def replaced(path, what):
    "Put something else in the place of a file."
    raw = path.read_bytes()
    path.unlink()
    if what == "half":
        path.write_bytes(raw[:len(raw) // 2])
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to("/dev/null")
    elif what != "missing":
        path.write_bytes(what)


def described(run, change):
    "Write another description into the files of the last checkpoint."
    for name in ("model", "ema_model"):
        weights, meta = read_weights(run / LAST / f"{name}.safetensors")
        meta = change(meta)
        write_weights(run / LAST / f"{name}.safetensors", weights, meta)
    (run / LAST / "state.json").write_text(json.dumps(meta))


def command(main, *argv):
    "Run a command in this process: what it says where it ends with status 2, else nothing."
    with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
        try:
            main([str(o) for o in argv])
        except SystemExit as e:
            status = e.code
        else:
            return ""
    assert status == 2
    return err.getvalue()


def refused(door, run):
    "What a door says where it refuses; empty where it works."
    if door == "generate":
        line = "--num_images 1 --steps 1".split()
        return command(iddm.generate.main, "--weight_path", run, "--result_path", run / "generated", *line)
    if door == "train":
        return command(iddm.train.main, "--resume", True, "--result_path", run.parent, "--epochs", 3)
    if door == "overwrite":
        line = "--overwrite True --image_size 8 --widths 32 --batch_size 600 --epochs 1 --sample_interval 0"
        return command(iddm.train.main, *line.split(), "--result_path", run.parent)
    try:
        if door == "load":
            load(run)
        elif door == "run_config":
            load_run_config(run)
        else:
            events = Trainer(load_run_config(run, epochs=3)).fit()
            next(events)
            events.close()
    except ValueError as e:
        return f"{e}\n"
    return ""


def check(run, door, must):
    "A door works or refuses in one line; where it refuses, all is as it was."
    before = state(run)
    said = refused(door, run)
    assert said.count("\n") == bool(said), said
    assert len(said) < 1200
    assert not said or state(run) == before
    if must:
        assert must in said
    return said


FILES = {  # file: what is put in its place
    "config.yaml": [b"", b"null", b"3", b"[]", b"hello", b"\xff\xfe", BINARY, DEEP, b"a: " + DEEP, BOMB, HUGE,
        b"epochs: 1.5", b"epochs: many", b"widths: [32.5]", b"widths: x", b"seed: [1]", b"seed: null",
        b"epochs:\n  a: 1", b"more: 1", b"epochs: 1\nepochs: 2", b"widths: [1000000000]",
        b"run_name: !!python/object/apply:os.system [ls]", b"\tx", b"layers: 10000000000",
        b"image_size: 1e9", "half", "folder", "missing"],
    "checkpoints/last": [b"", b"epoch_009", b"../..", b"/", b"\xff\xfe", BINARY, HUGE, b"\0", b"epoch_001\nepoch_002",
        "folder", "missing"],
    "metrics.jsonl": [b"", b"null\n", b"3\n", b"[]\n", b'{"step": "1"}\n', b'{"step": null}\n', b'{}\n',
        b"\xff\xfe\n", BINARY, DEEP + b"\n", HUGE + b"\n", b'{"step": 1', b'{"step": NaN}\n', b'{"step": 1e999}\n',
        "half", "folder", "missing"],
    f"{LAST}/state.json": [b"", b"null", b"3", b"[]", b"{}", b"\xff", BINARY, DEEP, HUGE, b'{"epoch": "2"}',
        b'{"epoch": 2}', "half", "folder", "missing"],
    f"{LAST}/optim.pt": [b"", b"\xff", BINARY, HUGE, b"\x80\x04N.", b"PK\x03\x04", "half", "folder", "missing", "link"],
    f"{LAST}/model.safetensors": [b"", b"\xff", BINARY, HUGE, b"\x02\0\0\0\0\0\0\0{}", "half", "folder", "missing",
        "link"],
    f"{LAST}/ema_model.safetensors": [b"", b"\xff", BINARY, HUGE, b"\x02\0\0\0\0\0\0\0{}", "half", "folder",
        "missing", "link"]}
NEEDS = dict(  # files that a door can't do without
    load=["ema_model.safetensors"], run_config=["config.yaml"],
    Trainer=["config.yaml", "model.safetensors", "optim.pt"])
ROWS = [(file, what) for file, whats in FILES.items() for what in whats]


@pytest.mark.parametrize("door", ["load", "run_config", "Trainer"])
@pytest.mark.parametrize("file, what", ROWS, ids=lambda o: o if isinstance(o, str) else repr(o[:12]))
def test_a_damaged_file_is_refused_in_a_line_or_does_no_harm(run, file, what, door):
    replaced(run / file, what)
    name = file.split("/")[-1]
    check(run, door, name if name in NEEDS[door] else "")


@pytest.mark.parametrize("door", ["generate", "train", "overwrite"])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("what", [b"null", BINARY, "half", "folder"], ids=["null", "binary", "half", "folder"])
def test_the_commands_say_so_too(run, file, what, door):
    replaced(run / file, what)
    check(run, door, "")


CONFIG = dict(widths=[[10**9], [8192] * 4, [32.5], "32", 32, None, [], [0], [-32], [[32]], [64]],
    layers=[16, 10**9, -1, "1", None, 1.5, True], image_size=[4096, 10**9, 0, -8, "8", None], act=["x", 3, None, []],
    noise_schedule=["x", None, 1], snr_shift=[0, None, "2"], prediction=["x", None], patch=[2, 3, 10**9],
    attention=[[7], 3, "a"], dropout=[2., "x", float("nan")], epochs=["x", 1.5, 0], more=[1],
    dataset_path=[None, 3, "a\0b"])
META = dict(format=[1, 3, "2", None], config=[None, [], 3, {"more": 1}], data=[None, 3],
    classes=[None, "ab", [1], ["a\0b"], [["a"]], 10, [], ["a"], ["a"] * 10**5], pictures=[None, 0, -1, 2**70],
    step=[None, "3", -1, 2.5, 2**70],
    epoch=[None, "1", -1, 2.5, 2**70], in_channels=[None, 0, 2, 3, "1", 10**12, [1]], skipped=[None, -1, "0"],
    in_a_row=[None, -1, "0"], losses=[None, [], [1], ["a", 1], [float("nan"), 0]], replaceable=[None, 1, "x"],
    more=[1])
LIES = [("config", k, o) for k, values in CONFIG.items() for o in values]
LIES += [("meta", k, o) for k, values in META.items() for o in values]


@pytest.mark.parametrize("door", ["load", "Trainer"])
@pytest.mark.parametrize("where, name, value", LIES, ids=lambda o: str(o)[:20])
def test_a_description_that_lies_is_refused_in_a_line(run, where, name, value, door):
    def lie(meta): return meta | ({name: value} if where == "meta" else dict(config=meta["config"] | {name: value}))
    described(run, lie)
    is_possible = (door, name, value) == ("load", "image_size", 4096)  # the same weights sample any size
    assert bool(check(run, door, "")) != is_possible


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("door", ["load", "Trainer"])
def test_a_description_without_a_field_is_refused_by_its_name(run, name, door):
    if name in ("replaceable", "more"):
        pytest.skip("it may be left out")
    described(run, lambda meta: {k: v for k, v in meta.items() if k != name})
    check(run, door, name)


@pytest.mark.parametrize("door", ["load", "Trainer"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_whole_numbers_are_not_taken_for_weights(run, door, dtype):
    for name in ("model", "ema_model"):
        weights, meta = read_weights(run / LAST / f"{name}.safetensors")
        write_weights(run / LAST / f"{name}.safetensors", {k: v.to(dtype) for k, v in weights.items()}, meta)
    check(run, door, "weights are floats")


def spoilt(optim):
    "States of an optimizer that aren't of these weights."
    inner = optim["optim"]
    first, group = inner["state"][0], inner["param_groups"][0]
    x = first["exp_avg"]
    shapes = (torch.zeros(1), torch.zeros(0), x[None], torch.zeros(1).expand(x.shape))
    moments = (*shapes, x.to(torch.int8), x.bool(), None, "x")
    states = (None, [], {10**6: first}, {"0": first}, {0: {}}, {0: None})
    many = list(range(10**5))
    groups = (None, [], [group, group], [{}], [group | dict(params=[0])], [group | dict(params=many)], "x")
    yield from (None, 3, [], "text", torch.zeros(3), {}, [optim], inner)
    for k in ("exp_avg", "exp_avg_sq"):
        for wrong in moments:
            yield optim | dict(optim=inner | dict(state=inner["state"] | {0: first | {k: wrong}}))
    for wrong in states:
        yield optim | dict(optim=inner | dict(state=wrong))
    for wrong in groups:
        yield optim | dict(optim=inner | dict(param_groups=wrong))
    scalers = (None, [], dict(scale="x"), 3)
    for wrong in scalers:
        yield optim | dict(scaler=wrong)


@pytest.mark.parametrize("i", range(41))
def test_a_state_of_the_optimizer_that_does_not_fit_is_refused(run, i):
    states = list(spoilt(torch.load(run / LAST / "optim.pt", weights_only=True)))
    assert len(states) == 41
    torch.save(states[i], run / LAST / "optim.pt")
    check(run, "Trainer", f"{LAST}/optim.pt")


@pytest.mark.parametrize("group", [
    dict(lr="x"), dict(betas=None), dict(eps="a"), dict(fused="x"), dict(amsgrad=True), dict(maximize=True),
    dict(capturable=True), dict(weight_decay="x"), dict(foreach=3)])
def test_numbers_of_an_optimizer_come_from_the_settings_whatever_its_file_says(run, group):
    optim = torch.load(run / LAST / "optim.pt", weights_only=True)
    optim["optim"]["param_groups"][0].update(group)
    torch.save(optim, run / LAST / "optim.pt")
    trainer = Trainer(load_run_config(run, epochs=3))
    c = trainer.config
    kept = trainer.state.optimizer.param_groups[0]
    fresh = torch.optim.AdamW(trainer.net.parameters(), lr=c.lr, weight_decay=c.weight_decay, fused=True)
    assert kept | dict(params=0) == fresh.param_groups[0] | dict(params=0)
    next(trainer.fit())


def test_what_people_keep_in_a_run_survives_resuming_and_is_named_before_overwriting(run):
    saved = run / "checkpoints"
    file = saved / "epoch_002/state.json"
    ours = file.read_text()
    file.write_text(json.dumps(json.loads(ours) | dict(replaceable=True)))  # so say the copies
    for name in ("best", "step_00000012_backup", "epoch_002_copy", "epoch_003", "epoch_x", ".epoch_002_copy.old"):
        shutil.copytree(saved / "epoch_002", saved / name)
    file.write_text(ours)
    (saved / "epoch_004").symlink_to(saved / "epoch_001", target_is_directory=True)
    (saved / "step_00000099").symlink_to("/nowhere")
    (saved / "notes.txt").write_text("which is best")
    before = {o.name for o in saved.iterdir()}
    for _ in Trainer(load_run_config(run, epochs=4)).fit():
        pass
    assert {o.name for o in saved.iterdir()} == before | {"epoch_003_1", "epoch_004_1"}
    assert (saved / "epoch_004_1").is_symlink()
    assert json.loads((saved / "epoch_003_1/state.json").read_text())["epoch"] == 2
    before = state(run)
    said = refused("overwrite", run)
    assert "which is not of a run of iddm, so --overwrite will not delete it" in said
    assert state(run) == before


@pytest.mark.parametrize("name", [
    "thesis.txt", ".env", "vis/mine.psd", "generated/notes.txt", "tensorboard/notes.txt",
    "checkpoints/best/model.safetensors", "checkpoints/epoch_001/notes.txt", "superseded/x", "checkpoints/epoch_007/x"])
def test_a_run_that_holds_something_of_ones_own_is_not_overwritten(run, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("years of work")
    before = state(run)
    assert name.split("/")[-1] in refused("overwrite", run) or name.split("/")[-2] in refused("overwrite", run)
    assert state(run) == before


def test_a_run_is_overwritten_with_all_that_is_its_own(run):
    assert refused("generate", run) == ""
    for name in (".DS_Store", "vis/Thumbs.db", ".config.yaml.tmp", "metrics.part", "checkpoints/.last.tmp"):
        (run / name).write_text("")
    shutil.copytree(run / LAST, run / "checkpoints/.epoch_003.new")
    for _ in Trainer(load_run_config(run, epochs=2, start_epoch=1)).fit():
        pass  # makes superseded/
    assert refused("overwrite", run) == ""
    assert sorted(o.name for o in (run / "checkpoints").iterdir()) == ["epoch_001", "last"]


def test_settings_with_values_of_before_are_read(run):
    text = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(text | dict(dataset_path="", data_root="", grad_clip=float("inf"))))
    assert load_run_config(run).dataset_path == "."
    assert load_run_config(run).grad_clip == float("inf")
