"""Nothing imports upwards: a module uses only modules whose page comes before its own.

And what an import costs: the mathematics needs torch alone, sampling needs no trainer.
"""
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "iddm"

# Arrows that go up all the same, with the reason: {("iddm.low", "iddm.high"): "why"}
EXCEPTIONS: dict[tuple[str, str], str] = {}


@cache
def pages() -> dict[str, str]:
    "Module to the name of its page, `iddm.data` to `20_data`; what no page makes is left out."
    found = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        made_from = re.search(r"File to edit: \S*/(\w+)\.ipynb", file.read_text(encoding="utf-8"))
        if made_from:
            found[_module(file)] = made_from[1]
    return found


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _file(module: str) -> Path:
    file = ROOT / f"{module.replace('.', '/')}.py"
    return file if file.exists() else ROOT / module.replace(".", "/") / "__init__.py"


def number(module: str) -> int:
    return int(re.match(r"\d+", pages()[module])[0])


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    "Line and name of what a module of this package imports, at its top or in a function; a name may be too long."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, o.name) for o in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[:len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, *filter(None, [node.module])]) if node.level else node.module
            yield from ((node.lineno, f"{base}.{o.name}") for o in node.names)
        elif isinstance(node, ast.Call) and _called(node) == "import_module" and isinstance(node.args[0], ast.Constant):
            yield node.lineno, node.args[0].value


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


@cache
def arrows() -> dict[tuple[str, str], int]:
    "Who imports whom, `(module, module)`, and at which line first."
    found = {}
    for module in pages():
        file = _file(module)
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for line, name in imported(file.read_text(encoding="utf-8"), package):
            target = name if name in pages() else name.rpartition(".")[0]
            if target in pages() and target != module:
                found.setdefault((module, target), line)
    return found


def test_arrows_go_down():
    up = [(high, low, line) for (high, low), line in arrows().items() if number(low) >= number(high)]
    wrong = [f"{_file(a).relative_to(ROOT)} line {line}: page {pages()[a]} imports {b}, page {pages()[b]}"
             for a, b, line in up if (a, b) not in EXCEPTIONS]
    assert not wrong, "\n".join(["", *sorted(wrong)])


def test_no_exception_is_left_over():
    assert set(EXCEPTIONS) <= set(arrows())


def test_there_is_no_circle():
    graph = {module: {low for high, low in arrows() if high == module} for module in pages()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)  # raises CycleError, which names the circle


def test_the_front_door_opens_only_downwards():
    behind = {f"{PACKAGE}.{module}" for module, _ in import_module(PACKAGE).DOORS.values()}
    assert not {module for module in behind if number(module) >= number(PACKAGE)}


@pytest.mark.parametrize("source, package, names", [
    ("import iddm.data as d", "iddm", ["iddm.data"]),
    ("from .data import load", "iddm", ["iddm.data.load"]),
    ("from ..generate import load", "iddm.widgets", ["iddm.generate.load"]),
    ("from . import svg", "iddm.widgets", ["iddm.widgets.svg"]),
    ("def f():\n    from iddm.data import load", "iddm", ["iddm.data.load"]),
    ("import_module('iddm.train')", "iddm", ["iddm.train"]),
])
def test_every_way_to_import_is_seen(source, package, names):
    assert [name for _, name in imported(source, package)] == names


# ---- what an import loads, asked in a new process

@cache
def loaded(statement: str, after: str) -> set[str]:
    "The modules that a statement loads, beyond those that another one, run before, has loaded."
    program = f"import sys\n{after}\nbefore = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def ours(modules: set[str]) -> set[str]:
    return {o for o in modules if o.split(".")[0] == PACKAGE}


def foreign(modules: set[str]) -> set[str]:
    "Neither ours nor Python's own: packages, without what torch loads of itself."
    return {o.split(".")[0] for o in modules} - {PACKAGE, "torch"} - set(sys.stdlib_module_names)


def test_the_package_alone_loads_nothing():
    modules = loaded("import iddm", after="")
    assert ours(modules) == {"iddm"}
    assert not foreign(modules)
    assert "torch" not in modules


@pytest.mark.parametrize("module", ["iddm.schedules", "iddm.posthoc_ema", "iddm.loop"])
def test_it_needs_torch_alone(module):
    modules = loaded(f"import {module}", after="import torch, torch._dynamo")  # with what torch needs for itself
    assert ours(modules) == {"iddm", module}
    assert not foreign(modules)


LAUNCHER = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.distributed.run")
TRAINING = ("iddm.trainer", "iddm.parallel", "iddm.recording", "iddm.launch", "iddm.train")


@pytest.mark.parametrize("unwanted", [*TRAINING, *LAUNCHER])
def test_sampling_needs_no_training(unwanted):
    modules = loaded("import iddm.generate", after="import torch, torchvision")
    assert not {o for o in modules if o == unwanted or o.startswith(f"{unwanted}.")}
