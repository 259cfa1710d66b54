"""The rules of style that no linter holds, on each page and each test written by hand; CONTRIBUTING.md lists them.

`pytest tests/e2e/test_style.py -k 03_samplers` asks for one page, `-k walrus` for one rule.
"""
import ast
import io
import json
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(o for o in (ROOT / "nbs").rglob("*.ipynb") if not o.parent.name.startswith("."))
SCRIPTS = [ROOT / "setup.py", *sorted((ROOT / "tests/e2e").glob("*.py"))]

MOST_LINES = 40
MEDIAN_LINES = 6
MOST_KILOBYTES = 300
MOST_OPERATORS = 2

# what is said instead: image, sample, resume, standard deviation, predict, trajectory, step
AVOIDED = re.compile(
    r"\b(pictures?|go(es|ing)? on|went on|gone on|spreads?|guess(es|ed)?|walks?|hops?"
    r"|whoever|whomever|those who|told|owe[sd]?|four-letter)\b", re.IGNORECASE)
KEPT = re.compile(r"random walks?|`[^`]*`|\]\([^)]*\)|https?://\S+")  # a term of its own, code, and addresses


@dataclass(frozen=True)
class Cell:
    "A piece of a file: of a page a cell, of a script all of it."
    name: str
    source: str
    is_code: bool

    @property
    def tree(self) -> ast.Module:
        "The syntax tree; a line of IPython's own language, such as `%matplotlib inline`, counts as empty."
        return ast.parse(re.sub(r"^[%!].*", "", self.source, flags=re.MULTILINE))

    def has(self, directive: str) -> bool:
        return re.search(rf"^#\|\s*{directive}\b", self.source, re.MULTILINE) is not None

    @property
    def lines(self) -> list[str]:
        "The lines that a reader reads: neither empty nor a directive."
        return [line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")]


@cache
def cells_of(path: Path) -> list[Cell]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [Cell("", text, is_code=True)]
    cells = json.loads(text)["cells"]
    return [Cell(o["id"], "".join(o["source"]), o["cell_type"] == "code") for o in cells]


# ---- rules about syntax: each finds the nodes of a tree that break it

def _parts(node: ast.AST, *kinds: type) -> list:
    "Everything below a node, and the node itself, of these kinds."
    return [o for o in ast.walk(node) if isinstance(o, kinds)]


def _below(node: ast.AST, *kinds: type) -> list:
    return [o for o in _parts(node, *kinds) if o is not node]


def _is_truth(node: ast.AST, flags: set[str]) -> bool:
    "Is this surely a bool: a comparison, `not x`, `bool(x)`, or a name that was one before?"
    if isinstance(node, ast.Name):
        return node.id in flags
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", "") in {"bool", "isinstance", "any", "all", "hasattr", "callable"}
    is_not = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    return is_not or isinstance(node, ast.Compare | ast.BoolOp)


def times_bool(tree: ast.Module) -> Iterator[ast.AST]:
    "Text, a list or a tuple multiplied by a bool: say it with `if`."
    flags = {o.arg for o in _parts(tree, ast.arg) if getattr(o.annotation, "id", "") == "bool"}
    for node in _parts(tree, ast.Assign):
        if _is_truth(node.value, flags):
            flags |= {o.id for o in node.targets if isinstance(o, ast.Name)}
    for node in _parts(tree, ast.BinOp):
        sides = [node.left, node.right]
        is_literal = [isinstance(o, ast.JoinedStr | ast.List | ast.Tuple) or _is_text(o) for o in sides]
        if isinstance(node.op, ast.Mult) and any(is_literal) and any(_is_truth(o, flags) for o in sides):
            yield node


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def walrus(tree: ast.Module) -> Iterator[ast.AST]:
    "`:=`: assign first, then ask."
    yield from _parts(tree, ast.NamedExpr)


def nested_ternary(tree: ast.Module) -> Iterator[ast.AST]:
    "`a if b else c` inside of another, or inside of a slice."
    for node in _parts(tree, ast.IfExp):
        yield from _below(node, ast.IfExp)
    for node in _parts(tree, ast.Slice):
        yield from _parts(node, ast.IfExp)


def boolean_algebra(tree: ast.Module) -> Iterator[ast.AST]:
    "More than two of `and`, `or` in what has no name: not assigned to one, nor returned by a function that is one."
    named = {id(o.value) for o in _parts(tree, ast.Assign, ast.AnnAssign, ast.Return)}
    inner = {id(below) for o in _parts(tree, ast.BoolOp) for below in _below(o, ast.BoolOp)}
    for node in _parts(tree, ast.BoolOp):
        operators = sum(len(o.values) - 1 for o in _parts(node, ast.BoolOp))
        if operators > MOST_OPERATORS and id(node) not in named | inner:
            yield node


def table_in_head(tree: ast.Module) -> Iterator[ast.AST]:
    "`for` over rows that are written in its own line: give the table a name, or parametrize the test."
    for node in _parts(tree, ast.For, ast.comprehension):
        if _is_table(node.iter):
            yield node.iter


def _is_table(node: ast.AST) -> bool:
    "Is this a literal of rows, or a literal of more than one line?"
    if isinstance(node, ast.Call):  # {...}.items(), enumerate((...)), zip((...), (...))
        head = node.func.value if isinstance(node.func, ast.Attribute) else None
        return isinstance(head, ast.Dict) or any(_is_table(o) for o in node.args)
    if not isinstance(node, ast.Tuple | ast.List | ast.Set):
        return False
    has_rows = any(isinstance(o, ast.Tuple | ast.List | ast.Dict) for o in node.elts)
    return has_rows or node.end_lineno > node.lineno


def unrelated(tree: ast.Module) -> Iterator[ast.AST]:
    "`a, b = f(x), []`: values assigned in one line have a name in common, or are alike."
    for node in _parts(tree, ast.Assign):
        targets, values = node.targets[0], node.value
        if isinstance(targets, ast.Tuple) and isinstance(values, ast.Tuple) and not _belong_together(targets, values):
            yield node


def _belong_together(targets: ast.Tuple, values: ast.Tuple) -> bool:
    names = [_names(o) for o in values.elts]
    is_update = bool(_names(targets) & set().union(*names))  # a, b = b, a + b: they change at once
    have_a_name_in_common = bool(set.intersection(*names))  # mean, std = x.mean(), x.std()
    are_alike = len({_shape(o) for o in values.elts}) == 1  # a, b = f(x), f(y)
    return is_update or have_a_name_in_common or are_alike


def _names(node: ast.AST) -> set[str]:
    return {o.id for o in _parts(node, ast.Name)}


def _shape(node: ast.AST) -> str:
    "What a value is like, whatever it is of: the names in it are left out, but for those of functions."
    if isinstance(node, ast.Constant):
        kind = type(node.value)
        return "number" if kind in (int, float) else kind.__name__
    functions = {o.func.id for o in _parts(node, ast.Call) if isinstance(o.func, ast.Name)}
    others = "|".join(map(re.escape, _names(node) - functions)) or "$^"
    return re.sub(rf"\b({others})\b", "_", ast.unparse(node))


def joined(tree: ast.Module) -> Iterator[ast.AST]:
    "Statements joined by a comma, `and` or `or`, or made a list. The value that a cell shows is none."
    for node in _parts(tree, ast.Expr):
        if isinstance(node.value, ast.Tuple | ast.BoolOp | ast.ListComp) and node is not tree.body[-1]:
            yield node
    for node in _parts(tree, ast.Lambda):
        if isinstance(node.body, ast.Tuple) and len(_parts(node.body, ast.Call)) > 1:
            yield node


# ---- rules about tests

def rows_in_loop(tree: ast.Module) -> Iterator[ast.AST]:
    "A loop that asserts and can't say for which row it failed: use `pytest.mark.parametrize`, or give it a message."
    for node in _parts(tree, ast.For):
        is_table = _is_table(node.iter)
        is_literal = isinstance(node.iter, ast.Tuple | ast.List | ast.Set)
        raises = [o for o in _parts(node, ast.Attribute) if o.attr == "raises"]
        asserts = _parts(node, ast.Assert)
        is_silent = raises or any(o.msg is None for o in asserts)
        could_be_rows = is_table and (asserts or raises)
        if could_be_rows or (is_literal and is_silent):
            yield node


def temporary_folder(tree: ast.Module) -> Iterator[ast.AST]:
    "A folder made by hand: pytest's `tmp_path` is one, and cleans up after itself."
    by_hand = {"TemporaryDirectory", "mkdtemp"}
    yield from (o for o in _parts(tree, ast.Name, ast.Attribute) if getattr(o, "id", getattr(o, "attr", "")) in by_hand)


# ---- rules about pages: each finds what to say of a page

def long_cell(path: Path) -> Iterator[str]:
    for cell in cells_of(path):
        if cell.is_code and len(cell.lines) > MOST_LINES:
            yield f"cell {cell.name}: {len(cell.lines)} lines, at most {MOST_LINES}"


def median_cell(path: Path) -> Iterator[str]:
    "Of the code that a reader is shown: a cell with `#| hide` doesn't count."
    shown = [len(cell.lines) for cell in cells_of(path) if cell.is_code and not cell.has("hide")]
    middle = median(shown or [0])
    if middle > MEDIAN_LINES:
        yield f"the median of its code cells has {middle:g} lines, at most {MEDIAN_LINES}"


def kilobytes(path: Path) -> Iterator[str]:
    size = path.stat().st_size / 1024
    if size > MOST_KILOBYTES:
        yield f"{size:.0f} KB, at most {MOST_KILOBYTES}: show fewer images, or smaller ones, or as JPEG"


def avoided_word(path: Path) -> Iterator[str]:
    for cell in cells_of(path):
        for number, line in _texts(cell):
            for found in AVOIDED.finditer(KEPT.sub("", line)):
                yield f"cell {cell.name}, line {number}: {found[0]!r} in {line.strip()!r}"


def _texts(cell: Cell) -> Iterator[tuple[int, str]]:
    "Lines of prose, with their numbers: of a cell of code its comments and docstrings."
    if not cell.is_code:
        in_fence = False
        for number, line in enumerate(cell.source.splitlines(), 1):
            in_fence ^= line.lstrip().startswith("```")
            if not in_fence:
                yield number, line
        return
    for node in _parts(cell.tree, ast.FunctionDef, ast.ClassDef):
        if ast.get_docstring(node, clean=False):
            start = node.body[0].lineno
            yield from enumerate(ast.get_docstring(node, clean=False).splitlines(), start)
    code = re.sub(r"^[%!].*", "", cell.source, flags=re.MULTILINE)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("#|"):
            yield token.start[0], token.string


def bare_arxiv(path: Path) -> Iterator[str]:
    for cell in cells_of(path):
        for number, line in enumerate(cell.source.splitlines(), 1):
            without_links = re.sub(r"\[[^\]]*\]\([^)]*\)", "", line)
            if not cell.is_code and re.search(r"arxiv\W{0,2}\d{4}\.\d{4,5}", without_links, re.IGNORECASE):
                yield f"cell {cell.name}, line {number}: make it a link: {line.strip()!r}"


def opening(path: Path) -> Iterator[str]:
    first = next((cell for cell in cells_of(path) if not cell.is_code), Cell("none", "", False))
    if not re.match(r"# .+\n+> .+", first.source):
        yield f"cell {first.name}: a page begins with `# Title`, an empty line, and `> what it is about`"


def words_link(path: Path) -> Iterator[str]:
    prose = "".join(cell.source for cell in cells_of(path) if not cell.is_code)
    if path.stem != "07_words" and "07_words.ipynb" not in prose:
        yield "no link to the page on words and symbols, 07_words.ipynb"


# ---- each rule on each file

ON_TREES = [times_bool, walrus, nested_ternary, boolean_algebra, table_in_head, unrelated, joined]
ON_TESTS = [rows_in_loop, temporary_folder]
ON_PAGES = [long_cell, median_cell, kilobytes, avoided_word, bare_arxiv, opening, words_link]


def _broken(cell: Cell, rule: Callable) -> Iterator[str]:
    "Where a cell breaks a rule about syntax."
    lines = cell.source.splitlines()
    where = f"cell {cell.name}, line" if cell.name else "line"
    for number in sorted({node.lineno for node in rule(cell.tree)}):
        yield f"{where} {number}: {lines[number - 1].strip()}"


def _check(path: Path, found: list[str]) -> None:
    place = path.relative_to(ROOT)
    assert not found, "\n".join(["", *(f"{place}: {o}" for o in found)])


@pytest.mark.parametrize("rule", ON_TREES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=lambda path: path.stem)
def test_code(path, rule):
    code = [cell for cell in cells_of(path) if cell.is_code]
    _check(path, [o for cell in code for o in _broken(cell, rule)])


@pytest.mark.parametrize("rule", ON_TESTS, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=lambda path: path.stem)
def test_tests(path, rule):
    tests = [cell for cell in cells_of(path) if cell.is_code and (cell.has("test") or path.suffix == ".py")]
    _check(path, [o for cell in tests for o in _broken(cell, rule)])


@pytest.mark.parametrize("rule", ON_PAGES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page(path, rule):
    _check(path, list(rule(path)))


# ---- the rules find what they are for, and leave alone what is fine

@pytest.mark.parametrize("rule, bad", [
    (times_bool, "'s' * (n != 1)"),
    (times_bool, "def f(check: bool):\n    return ['--check'] * check"),
    (times_bool, "many = n > 1\nprint(f'{n}s' * many)"),
    (walrus, "if m := f(): print(m)"),
    (nested_ternary, "x = a if b else c if d else e"),
    (nested_ternary, "x[1 if b else 2:]"),
    (boolean_algebra, "if a and b or c and d: pass"),
    (boolean_algebra, "x = [o for o in y if a and b and c and d]"),
    (table_in_head, "for a, b in ((1, 2), (3, 4)): pass"),
    (table_in_head, "x = [a for a in (\n    1, 2)]"),
    (table_in_head, "for k, v in {1: 2}.items(): pass"),
    (table_in_head, "for i, (a, b) in enumerate([(1, 2)]): pass"),
    (unrelated, "a, b = f(1), g(2)"),
    (unrelated, "seen, cells = {}, []"),
    (unrelated, "n, name = 1, 'a'"),
    (joined, "f(), g()\nx = 1"),
    (joined, "def f():\n    a() or b()"),
    (joined, "h = lambda: (f(), g())"),
    (rows_in_loop, "for n in (1, 2): assert n"),
    (rows_in_loop, "for n, m in ((1, 2), (2, 3)): assert f(n) == m, n"),
    (rows_in_loop, "for n in [1, 2]:\n    with pytest.raises(ValueError): f(n)"),
    (temporary_folder, "with tempfile.TemporaryDirectory() as d: pass"),
])
def test_a_rule_finds_what_it_is_for(rule, bad):
    assert list(rule(ast.parse(bad)))


@pytest.mark.parametrize("rule, good", [
    (times_bool, "x = '-' * 40 + ' ' * indent"),
    (times_bool, "x = noise * (t > 0) + [0] * n"),
    (nested_ternary, "x = a if b else c\ny = c if d else e"),
    (nested_ternary, "x = found['ema' if b else 'raw']"),
    (boolean_algebra, "if a and b and not c: pass"),
    (boolean_algebra, "ready = a and b and c and d"),
    (boolean_algebra, "def f(): return a and b and c and d"),
    (table_in_head, "for n in (1, 2, 3): pass"),
    (table_in_head, "for a, b in ROWS: pass"),
    (table_in_head, "for a, b in zip(f(1), g(2), strict=True): pass"),
    (unrelated, "a, b = b, a + b"),
    (unrelated, "mean, std = x.mean(), x.std()"),
    (unrelated, "low, high = 0, 1."),
    (unrelated, "a, b = [], []"),
    (unrelated, "h, w = image.shape"),
    (unrelated, "p, q = a.flatten(1), b.flatten(1)"),
    (unrelated, "to_x0, to_eps = TO_X0[source], TO_EPS[kind]"),
    (joined, "x = 1\nx, x.shape"),
    (rows_in_loop, "for step in ddim(denoise, x): assert step.x"),
    (rows_in_loop, "for n in (1, 2): total += n"),
    (rows_in_loop, "for n in (1, 2): assert f(n), n"),
])
def test_a_rule_leaves_alone_what_is_fine(rule, good):
    assert not list(rule(ast.parse(good)))


@pytest.mark.parametrize("text, found", [
    ("Whoever is stopped owes it.", 2),
    ("The picture goes on.", 2),
    ("A random walk; `os.walk`; see [pages](walk.ipynb).", 0),
])
def test_words_are_found_in_prose_and_not_in_code(text, found):
    assert len(list(AVOIDED.finditer(KEPT.sub("", text)))) == found
