"What the README shows works: its programs, the flags of its commands, and its links."
import ast
import dataclasses
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

from iddm.bench import BenchConfig
from iddm.config import TrainConfig
from iddm.generate import GenerateConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    "iddm-train": TrainConfig, "iddm.train": TrainConfig, "iddm-generate": GenerateConfig, "iddm-bench": BenchConfig}


def fenced(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def lines():
    "Command lines of ours, in fences and in the text."
    texts = [*"\n".join(fenced("sh")).splitlines(), *re.findall(r"`(iddm-\w+ --[^`]*)`", README)]
    pieces = [piece.strip() for text in texts for piece in text.split("&&")]
    return [piece for piece in pieces if any(word in COMMANDS for word in piece.split())]


def imports(program):
    "Modules of ours, and the names that a program imports from them."
    nodes = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.ImportFrom)]
    return [(node.module, o.name) for node in nodes for o in node.names if node.module.split(".")[0] == "iddm"]


@pytest.mark.parametrize("module, name", [o for program in fenced("python") for o in imports(program)])
def test_what_a_program_imports_is_there(module, name):
    assert hasattr(import_module(module), name)


def test_the_program_without_a_training_does_what_it_says():
    program, = [o for o in fenced("python") if "Trainer" not in o]
    torch.manual_seed(0)
    names = {}
    exec(program, names)
    x = names["x"]
    assert x.shape == (1000, 1)
    assert ((x.abs() - 1).abs() < .5).float().mean() > .95
    assert 400 < (x > 0).sum() < 600


@pytest.mark.parametrize("line", lines())
def test_the_flags_of_a_command_exist(line):
    words = shlex.split(line)
    settings = next(COMMANDS[word] for word in words if word in COMMANDS)
    start = next(i for i, word in enumerate(words) if word in COMMANDS)
    flags = [word.removeprefix("--") for word in words[start:] if word.startswith("--")]
    assert set(flags) <= {f.name for f in dataclasses.fields(settings)}


LINKS = sorted(set(re.findall(r"\]\(([^)#:\s]+)\)", README)))
FILES = [o for o in (ROOT / "nbs").rglob("*.ipynb") if not o.parent.name.startswith(".") and o.stem != "index"]
PAGES = sorted(o.relative_to(ROOT).as_posix() for o in FILES)


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_to_a_file(link):
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_each_page_is_in_the_table(page):
    assert page in LINKS


def test_names_of_an_earlier_readme_still_work():
    from iddm.oracles import mixture
    from iddm.samplers import heun, last
    from iddm.schedules import flow
    schedule = flow()
    denoise = mixture(schedule, torch.tensor([[-1.], [1.]]), .1)
    x = last(heun(denoise, torch.randn(100, 1, generator=torch.Generator().manual_seed(0)), schedule, 20))
    assert (x.abs() - 1).abs().mean() < .2
