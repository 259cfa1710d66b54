"The widgets as a user sees them: Chromium, a real JupyterLab and a real Voilà, all on 127.0.0.1."
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

BROWSERS = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
CHROMIUM = os.environ.get("CHROMIUM") or next(BROWSERS, None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
pytest.importorskip("voila", reason="voila isn't installed")
if CHROMIUM is None:
    advice = "apt-get install chromium, or set CHROMIUM to its path"
    pytest.skip(f"no Chromium on this machine: {advice}", allow_module_level=True)

expect = playwright.expect
expect.set_options(timeout=20_000)

BIN = Path(sys.executable).parent
PAGES = Path(__file__).parents[2] / "nbs"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]  # nothing leaves the machine
BAD = [
    "Click to show javascript error", "Error displaying widget", "Error creating widget", "model not found",
    "Traceback (most recent call last)", "Failed to load model class", "rate exceeded"]
HARMLESS = ["ERR_NAME_NOT_RESOLVED|ERR_INTERNET_DISCONNECTED|ERR_BLOCKED"]  # Voilà asks the web for icons of buttons
if find_spec("notebook"):
    HARMLESS.append("getter for the shared module")  # Voilà loads Notebook 7's part for JupyterLab, too
OFFLINE = re.compile("|".join(HARMLESS))
ERRORS = [
    ".jupyter-widgets-error-widget", "[data-mime-type='application/vnd.jupyter.stderr']",
    "[data-mime-type='application/vnd.jupyter.error']"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


FOLDERS = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "MPLCONFIGDIR")


def private(tmp):
    "An environment without settings, kernels and workspaces of the user's."
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    for k in FOLDERS:
        (tmp / k.lower()).mkdir()
        env[k] = str(tmp / k.lower())
    news = Path(env["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps(dict(fetchNews="false", checkForUpdates=False, doNotDisturbMode=True)))
    quick = dict(OMP_NUM_THREADS="1", PYDEVD_DISABLE_FILE_VALIDATION="1", IDDM_QUICK="1")
    return env | quick | dict(PATH=f"{BIN}:{env['PATH']}")


def command(kind, root, page, port, token):
    if kind == "lab":
        return [
            "jupyter-lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
            "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    return [
        "voila", str(root / page), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}", f"--token={token}",
        "--Voila.port_retries=0", f"--Voila.root_dir={root}", "--VoilaConfiguration.show_tracebacks=True",
        "--VoilaExecutor.timeout=300"]


def address(kind, page, port, token):
    path = f"lab/tree/{page}" if kind == "lab" else ""
    return f"http://127.0.0.1:{port}/{path}?token={token}"


def sign_of_life(kind, port, token):
    "An address that the server answers once it is ready."
    path = f"api/status?token={token}" if kind == "lab" else "voila/static/voila.js"
    return f"http://127.0.0.1:{port}/{path}"


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except urllib.error.HTTPError as e:
        return e.code in (403, 404, 405)
    except OSError:
        return False


def write_page(path, *cells):
    "A page of its own, for one test."
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    code = dict(cell_type="code", execution_count=None, metadata={}, outputs=[])
    made = [code | dict(id=f"cell{i}", source=o) for i, o in enumerate(cells)]
    path.write_text(json.dumps(dict(cells=made, metadata=kernel, nbformat=4, nbformat_minor=5)), encoding="utf-8")


def copy_pages(root):
    "Copy the pages as a reader gets them, without their stored outputs, so that what is seen is new."
    shutil.copytree(PAGES, root / "nbs")
    for path in (root / "nbs").rglob("*.ipynb"):
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = []
        path.write_text(json.dumps(nb), encoding="utf-8")


def end(p):
    "End a server and its kernels."
    with contextlib.suppress(ProcessLookupError):
        os.kill(p.pid, signal.SIGTERM)  # JupyterLab ends its kernels
    with contextlib.suppress(subprocess.TimeoutExpired):
        p.wait(15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(p.pid, signal.SIGKILL)
    p.wait(5)


@contextlib.contextmanager
def server(kind, page, tmp, cells=()):
    "Serve a copy of the pages, and a page of these cells; gives the address of one."
    root = tmp / "work"
    port = free_port()
    token = secrets.token_hex(16)
    copy_pages(root)
    if cells:
        write_page(root / page, *cells)
    args = command(kind, root, page, port, token)
    deadline = time.monotonic() + 90
    with open(tmp / "server.log", "wb") as log:
        output = dict(stdout=log, stderr=log)
        p = subprocess.Popen(
            [BIN / args[0], *args[1:]], env=private(tmp), cwd=root, start_new_session=True, **output)
        try:
            while not answers(sign_of_life(kind, port, token)):
                is_waiting = p.poll() is None and time.monotonic() < deadline
                assert is_waiting, (tmp / "server.log").read_text()[-3000:]
                time.sleep(.1)
            yield address(kind, page, port, token)
        finally:
            end(p)


READY = """() => {
    const s = window.jupyterapp?.shell?.currentWidget?.sessionContext, k = s?.session?.kernel;
    return !!(s && s.isReady && k && k.status === 'idle' && k.connectionStatus === 'connected');
}"""


class Notebook:
    "A page in the browser; the same in JupyterLab and in Voilà."
    def __init__(self, browser, url, kind):
        self.kind = kind
        self.errors = []
        self.page = browser.new_page()
        self.page.on("pageerror", lambda e: self.errors.append(f"{e}"))
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.goto(url, wait_until="domcontentloaded", timeout=300_000)
        if kind == "lab":
            self.page.locator(".jp-NotebookPanel .jp-Notebook").first.wait_for(timeout=90_000)
            self.page.locator("#jupyterlab-splash").wait_for(state="detached", timeout=90_000)
            self.page.wait_for_function(READY, timeout=90_000)  # without this, Run All starts a second kernel
            self.page.get_by_role("menuitem", name="Run", exact=True).click()
            self.page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
        self.start = time.monotonic()
        self.drawn(300_000)
        self.first_widget = time.monotonic() - self.start
        self.last_output().wait_for(timeout=300_000)

    def last_output(self):
        return self.page.locator(".jp-OutputArea-output", has_text="all cells ran").first

    def drawn(self, timeout):
        "Wait for widgets. Voilà rarely serves a page without any: there, and only there, one more load is allowed."
        widgets = self.page.locator(".jupyter-widgets").first
        if self.kind == "voila":
            self.last_output().wait_for(timeout=timeout)
            try:
                widgets.wait_for(timeout=20_000)
            except playwright.TimeoutError:
                print("Voilà drew no widgets: one more load")
                self.page.reload(wait_until="domcontentloaded", timeout=timeout)
        widgets.wait_for(timeout=timeout)

    def hook(self, name):
        return self.page.locator(f".iddm-{name}").first

    def changes(self, name, do):
        "Wait until doing something changed an image."
        old = self.hook(name).get_attribute("src")
        do()
        expect(self.hook(name)).not_to_have_attribute("src", old, timeout=20_000)

    def check_clean(self):
        text = self.page.locator("body").inner_text()
        assert not [bad for bad in BAD if bad in text]
        assert not [error for error in self.errors if not OFFLINE.search(error)]
        assert self.page.locator(", ".join(ERRORS)).count() == 0

    def shoot(self, name):
        if "E2E_SHOTS" not in os.environ:
            return
        for width in (1280, 800):
            self.page.set_viewport_size(dict(width=width, height=800))
            time.sleep(.5)
            self.page.screenshot(path=f"{os.environ['E2E_SHOTS']}/{self.kind}-{name}-{width}.png")
        self.page.set_viewport_size(dict(width=1280, height=800))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as pw:
        profile = tmp_path_factory.mktemp("profile")
        look = dict(headless=True, viewport=dict(width=1280, height=800))
        context = pw.chromium.launch_persistent_context(f"{profile}", executable_path=CHROMIUM, args=FLAGS, **look)
        context.set_default_timeout(30_000)
        yield context
        context.close()


@pytest.fixture
def opened(browser, tmp_path, request):
    @contextlib.contextmanager
    def opened(kind, name, *cells):
        with server(kind, f"nbs/{name}.ipynb", tmp_path, cells) as url:
            nb = Notebook(browser, url, kind)
            print(f"\n{kind} {name}: first widget after {nb.first_widget:.1f} s")
            try:
                yield nb
            except BaseException:
                if "E2E_SHOTS" in os.environ:
                    nb.page.screenshot(path=f"{os.environ['E2E_SHOTS']}/FAIL-{kind}-{Path(name).name}.png")
                raise
            finally:
                nb.page.close()
    return opened


LATENCY = """async key => {
    const image = document.querySelector('.iddm-noised-linear');
    const handle = document.querySelector('.iddm-t .noUi-handle');
    const old = image.src, start = performance.now();
    const seen = new Promise(resolve => {
        const observer = new MutationObserver(() => {
            if (image.src === old) return;
            observer.disconnect();
            image.decode().then(() => resolve(performance.now() - start));
        });
        observer.observe(image, {attributes: true});
    });
    handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
    return await seen;
}"""


def choose(nb, path):
    "Choose a file of one's own."
    with nb.page.expect_file_chooser() as chooser:
        nb.hook("upload").click()
    chooser.value.set_files(path)


def fill(nb, name, value):
    "Type into a field."
    field = nb.hook(name).locator("input")
    field.fill(str(value))
    field.press("Enter")


def drop(nb, folder):
    "Give the noising demo an image of one's own, the same again, and something that isn't one."
    Image.new("RGB", (60, 40), "white").save(folder / "own.png")
    (folder / "own.txt").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "large.png").write_bytes(bytes(12 * 2**20))
    nb.changes("noised-linear", lambda: choose(nb, folder / "own.png"))
    expect(nb.hook("own")).to_contain_text("image 1797 is own.png")
    nb.changes("noised-linear", lambda: fill(nb, "which", 5))
    nb.changes("noised-linear", lambda: choose(nb, folder / "own.png"))
    expect(nb.hook("which").locator("input")).to_have_value("1797")
    choose(nb, folder / "own.txt")
    expect(nb.hook("error")).to_contain_text("own.txt: not an image")
    nb.shoot("upload")
    choose(nb, folder / "empty.png")
    expect(nb.hook("error")).to_contain_text("empty.png: an empty file")
    choose(nb, folder / "large.png")  # sent whole, it would cut the connection
    expect(nb.hook("error")).to_contain_text("large.png: 12 MB, more than can be sent")
    choose(nb, folder / "own.png")
    expect(nb.hook("error")).to_have_text("")


KEYS = [("Home", "0"), ("End", "999"), ("Home", "0"), ("ArrowRight", "1"), ("PageUp", "6")]


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_the_slider_drowns_the_image(opened, kind, tmp_path):
    with opened(kind, "tutorials/02_noising_demo") as nb:
        info, handle = nb.hook("info").locator("span"), nb.hook("t").locator(".noUi-handle")
        handle.focus()
        for key, want in KEYS:
            nb.changes("noised-linear", lambda key=key: handle.press(key))
            expect(info).to_have_attribute("data-t", want)
        nb.changes("noised-cosine", nb.hook("again").click)
        assert nb.hook("noised-linear").evaluate("i => i.naturalWidth") == 16
        ms = []
        for key in ["ArrowRight"] * 20:
            ms.append(nb.page.evaluate(LATENCY, key))
            time.sleep(.05)
        median = statistics.median(ms)
        print(f"{kind}: key to image {median:.0f} ms in the median of {len(ms)}, {max(ms):.0f} ms at the most")
        readout = nb.hook("t").locator(".widget-readout")
        readout.fill("320")
        readout.press("Enter")
        expect(info).to_have_attribute("data-t", "320")
        drop(nb, tmp_path)
        nb.shoot("noising")
        nb.check_clean()


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_generate_and_stop(opened, kind):
    with opened(kind, "tutorials/03_generation_demo") as nb:
        go, status = nb.hook("generate-go"), nb.hook("generate-status")
        expect(go).to_be_enabled(timeout=120_000)
        nb.changes("image", go.click)
        expect(status).to_contain_text("done", timeout=60_000)
        expect(nb.page.locator(".iddm-gallery").first.locator("img")).to_have_count(2)
        nb.shoot("generated")
        steps = nb.hook("steps").locator("input")
        steps.fill("900")
        steps.press("Enter")
        go.click()
        expect(status).to_contain_text(re.compile(r"step \d+ of 900"), timeout=20_000)
        expect(go).to_be_disabled()
        nb.shoot("generating")
        start = time.monotonic()
        nb.hook("generate-stop").click()
        expect(status).to_contain_text("stopped", timeout=5_000)
        print(f"{kind}: click to stopped {time.monotonic() - start:.2f} s")
        expect(go).to_be_enabled()
        canvas = nb.hook("paint").locator("canvas")
        canvas.hover(position=dict(x=60, y=60))
        nb.page.mouse.down()
        canvas.hover(position=dict(x=200, y=120))
        nb.page.mouse.up()
        expect(nb.hook("painted").locator("span")).to_have_attribute("data-n", re.compile("^[2-9][0-9]"))
        nb.hook("fill-go").click()
        expect(nb.hook("fill-status")).to_contain_text("done", timeout=60_000)
        nb.shoot("filled")
        nb.check_clean()


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_training_starts_shows_its_loss_and_stops(opened, kind):
    with opened(kind, "tutorials/04_live_training") as nb:
        points = nb.hook("loss").locator("span[data-points]")
        nb.hook("start-go").click()
        expect(points).to_have_attribute("data-points", re.compile(r"^\d{2,}$"), timeout=120_000)
        nb.shoot("training")
        nb.hook("start-stop").click()
        expect(nb.hook("start-status")).to_contain_text("stopped", timeout=60_000)
        nb.hook("resume").click()
        expect(nb.hook("start-status")).to_contain_text("step", timeout=60_000)
        expect(points).to_have_attribute("data-points", re.compile(r"^\d{1,}$"), timeout=60_000)
        nb.hook("start-stop").click()
        expect(nb.hook("start-status")).to_contain_text("stopped", timeout=60_000)
        watch = nb.hook("watch-status")
        watch.scroll_into_view_if_needed()
        expect(watch).to_contain_text("done · epoch 2 of 2")
        expect(nb.hook("written")).to_contain_text("trained to its end")
        expect(nb.page.locator(".iddm-samples").nth(1)).to_contain_text("samples after epoch 2")
        slider = nb.page.locator(".iddm-epoch .noUi-handle").nth(1)
        slider.focus()
        slider.press("Home")
        expect(nb.page.locator(".iddm-samples").nth(1)).to_contain_text("samples after epoch 1")
        nb.shoot("watched")
        nb.check_clean()


WATCH = ("""
import threading, tempfile
from iddm import TrainConfig, Trainer, record
from iddm.widgets import watch_panel
folder = tempfile.mkdtemp()
small = dict(image_size=8, widths=(32,), attention=(), batch_size=100, sample_interval=1, sample_steps=2)
trainer = Trainer(TrainConfig(epochs=500, result_path=folder, run_name="elsewhere", **small))
events = record(trainer.fit(), trainer)
next(events)

def train():
    for event in events:
        if event.epoch == 8:
            return

thread = threading.Thread(target=train, daemon=True)
thread.start()
""",
         "watch_panel(folder + '/elsewhere')",
         "print('all cells ran')")


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_a_run_is_watched_while_it_is_written(opened, kind):
    with opened(kind, "watch", *WATCH) as nb:
        points = nb.hook("loss").locator("span[data-points]")
        expect(points).to_have_attribute("data-points", re.compile(r"^\d{2,}$"), timeout=60_000)
        expect(nb.hook("samples")).to_contain_text(re.compile("samples after epoch [1-8]"), timeout=60_000)
        expect(nb.hook("written")).to_contain_text("being written: the last line came")
        far = re.compile(r"epoch [5-9] of 500 · step \d+ of 8500")
        expect(nb.hook("watch-status")).to_contain_text(far, timeout=60_000)
        nb.shoot("watching")
        nb.hook("watch-stop").click()
        expect(nb.hook("watch-status")).to_contain_text("stopped at epoch")
        nb.check_clean()


NAME = "<img src=x onerror=window.pwned=1>"  # of a class, a run and a file
TRAIN = """
import tempfile
from iddm import TrainConfig, Trainer, record
folder = tempfile.mkdtemp()
small = dict(image_size=8, widths=(32,), attention=(), batch_size=100, epochs=1, sample_interval=0, device="cpu")

def train(run_name, **settings):
    trainer = Trainer(TrainConfig(result_path=folder, run_name=run_name, **small | settings))
    for event in record(trainer.fit(), trainer):
        pass
"""  # train(name, ...) for a moment, in a folder of its own
RUNS = (TRAIN + f"""
import threading
from iddm.widgets import runs_panel
train({NAME!r})
train("slow", lr=1e-4)
train("large", lr=1e-4, image_size=12)
""",
        "runs_panel(folder, n=4, steps=4)",
        "print('all cells ran')",
        "threading.Thread(target=train, args=('late',), daemon=True).start()")


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_runs_are_compared_and_one_appears(opened, kind):
    with opened(kind, "runs", *RUNS) as nb:
        table, curves, runs = nb.hook("table"), nb.hook("curves"), nb.hook("runs").locator("select")
        expect(table.locator("tr")).to_have_count(5, timeout=60_000)
        expect(table).to_contain_text("late")
        expect(table).to_contain_text(NAME)
        nb.shoot("runs")
        runs.select_option(label=[NAME, "slow", "large"])
        expect(table.locator("tr")).to_have_count(4)
        expect(table).to_contain_text("image_size")
        nb.hook("draw-go").click()
        expect(nb.hook("draw-error")).to_contain_text("12x12 pixels")
        runs.select_option(label=[NAME, "slow"])
        expect(curves.locator("polyline")).to_have_count(2)
        nb.hook("axis").locator("select").select_option(label="seconds")
        expect(curves).to_contain_text("seconds")
        nb.hook("order").locator("select").select_option(label="loss")
        expect(table.locator("tr").nth(1)).to_contain_text(NAME)
        nb.changes("image", nb.hook("draw-go").click)
        expect(nb.hook("draw-status")).to_contain_text("done · 2 runs", timeout=60_000)
        expect(nb.hook("drawn")).to_contain_text(f"from above: {NAME} · slow")
        nb.shoot("runs-drawn")
        nb.hook("follow-stop").click()
        expect(nb.hook("follow-status")).to_contain_text("stopped")
        nb.hook("refresh").click()
        expect(nb.hook("follow-status")).to_contain_text("done · 4 runs")
        assert nb.page.evaluate("window.pwned") is None
        nb.check_clean()


EMA = (TRAIN + f"""
from iddm.widgets import ema_panel
train({NAME!r}, ema_snapshots=4)
train("plain")
""",
       f"ema_panel(folder + '/' + {NAME!r}, (.03, .05, .2), n=4, steps=4, num_images=60, features='random')",
       "print('all cells ran')",
       "ema_panel(folder + '/plain')")


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_the_slider_changes_the_length_of_an_average(opened, kind):
    with opened(kind, "ema", *EMA) as nb:
        words, figure = nb.hook("words"), nb.hook("figure")
        expect(nb.page.locator(".iddm-error", has_text="no snapshots")).to_contain_text("plain", timeout=60_000)
        expect(nb.page.get_by_text(NAME).first).to_be_visible()
        expect(words).to_contain_text("std 0.05 of")
        nb.changes("image", nb.hook("draw-go").click)
        expect(nb.hook("draw-status")).to_contain_text("done · 3 lengths", timeout=60_000)
        expect(figure).to_contain_text("not measured")
        nb.hook("measure-go").click()
        expect(nb.hook("measure-status")).to_contain_text("done · std 0.05", timeout=60_000)
        expect(figure).to_contain_text("n 60, floor")
        handle = nb.hook("std").locator(".noUi-handle")
        handle.focus()
        nb.changes("image", lambda: handle.press("End"))
        expect(words).to_contain_text("std 0.2 of")
        expect(figure).to_contain_text("not measured")
        nb.hook("measure-all").click()
        expect(nb.hook("measure-status")).to_contain_text("done · 3 measured", timeout=60_000)
        expect(figure).to_contain_text("n 60, floor")
        expect(nb.hook("curve").locator("polyline")).to_have_count(3)
        nb.shoot("ema")
        assert nb.page.evaluate("window.pwned") is None
        nb.check_clean()


def test_a_recorded_trajectory_is_scrubbed_and_played(opened):
    with opened("lab", "54_trajectory") as nb:
        at = nb.hook("at-ddim").locator("span")
        at.scroll_into_view_if_needed()
        handle = nb.hook("step").locator(".noUi-handle")
        handle.focus()
        nb.changes("x-ddpm", lambda: handle.press("End"))
        expect(at).to_have_attribute("data-i", "24")
        nb.shoot("scrubber")
        nb.changes("x0-dpmpp_2m", lambda: handle.press("Home"))
        expect(at).to_have_attribute("data-i", "0")
        nb.hook("play").locator("button").first.click()
        expect(at).to_have_attribute("data-i", re.compile("^[3-9]$"))
        nb.check_clean()


HOSTILE = (f"""
from pathlib import Path
import shutil, tempfile, torch
from PIL import Image
from iddm import TrainConfig, Trainer
from iddm.widgets import generation_panel, guidance_panel, inpaint_panel, noising_demo, train_panel
name, folder = {NAME!r}, Path(tempfile.mkdtemp())
for k, c in enumerate((name, "dog")):
    (folder / "data" / c).mkdir(parents=True)
    for i in range(8): Image.new("L", (8, 8), 20 * i + 9 * k).save(folder / "data" / c / (str(i) + ".png"))
small = dict(image_size=8, widths=(32,), batch_size=8, epochs=1, result_path=str(folder / "results"), sample_interval=0)
for _ in Trainer(TrainConfig(dataset_path=str(folder / "data"), run_name=name, **small)).fit(): pass
run, torn = folder / "results" / name, folder / "results" / ("torn " + name)
shutil.copytree(run, torn)
for o in torn.rglob("*.safetensors"): o.write_bytes(b"torn")
""",
           "generation_panel(folder / 'results')",
           "guidance_panel(run, (0, 2), n=2, steps=2)",
           "inpaint_panel(run, torch.zeros(1, 1, 8, 8), n=2)",
           "train_panel(TrainConfig(dataset_path=name, run_name=name + '2', **small))",
           "noising_demo(schedules=('linear',))",
           "print('all cells ran')")


@pytest.mark.parametrize("kind", ["lab", "voila"])
def test_names_are_seen_as_text_and_never_run(opened, kind, tmp_path):
    with opened(kind, "hostile", *HOSTILE) as nb:
        nb.hook("class_name").locator("select").select_option(label=NAME)
        fill(nb, "steps", 2)
        nb.hook("generate-go").click()
        expect(nb.hook("gallery")).to_contain_text(f"{NAME}, ddim 2", timeout=60_000)
        nb.hook("save").click()
        expect(nb.hook("saved")).to_contain_text(NAME)
        nb.page.get_by_text("the same from a shell, and from Python").first.click()
        expect(nb.hook("commands")).to_contain_text(NAME)
        nb.hook("run").locator("select").select_option(label=f"torn {NAME}")
        expect(nb.hook("generate-error")).to_contain_text(f"torn {NAME}")
        nb.shoot("hostile")
        nb.hook("start-go").click()
        expect(nb.hook("start-error")).to_contain_text(NAME)
        (tmp_path / f"{NAME}.png").write_text("no image")
        nb.hook("upload").scroll_into_view_if_needed()
        choose(nb, tmp_path / f"{NAME}.png")
        expect(nb.page.locator(".iddm-error", has_text="not an image")).to_contain_text(f"{NAME}.png")
        Image.new("L", (9, 9)).save(tmp_path / f"{NAME}.png")
        choose(nb, tmp_path / f"{NAME}.png")
        expect(nb.hook("own")).to_contain_text(f"{NAME}.png")
        nb.shoot("hostile-upload")
        assert nb.page.evaluate("window.pwned") is None
        assert nb.page.locator("img[src='x']").count() == 0
        nb.check_clean()
