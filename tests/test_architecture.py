"""The house keeps its laws. The checker is a function over a folder, and each rule is seen red on a planted fault."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
MAX_NESTING = 4
MAX_PARAMETERS = 8
MAX_SCRIPT_LINES = 15

HEIGHTS = {
    "core": 0,
    "arguments": 1,
    "packing": 1,
    "masks": 1,
    "operators": 1,
    "data": 2,
    "attention": 2,
    "quant": 2,
    "losses": 2,
    "models": 3,
    "parallel": 3,
    "adapters": 4,
    "stages": 5,
    "train": 5,
    "export": 5,
    "generate": 5,
    "cli": 6,
    "__main__": 7,
}
"""A room imports core and rooms below it, never one of equal or greater height."""

ROOMS_WITHOUT_PADDLE = ("core", "arguments", "packing", "masks", "data")
PADDLE = ("paddle", "paddlenlp", "paddleslim")
SCRIPTS = ("run_finetune.py", "merge_lora_params.py")

PACKAGE = "paddle_sft"
TEXT_SUFFIXES = (".py", ".md", ".json", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".txt", ".sh", ".in", "")
SKIPPED_FOLDERS = ("outputs", "checkpoints", "log", "logs", "build", "dist", "__pycache__")
SKIPPED_BY_ENDING = (".egg-info",)

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# Written in pieces, so that this file does not break its own rules.
HOMES = ("root", "home", "tmp", "work", "Users", "opt")
MACHINE_PATH = re.compile(r"(?<![\w./~<$}-])/(?:" + "|".join(HOMES) + r")/[\w.]")
HOSTS = ("py" + r"pi\.", "python" + r"hosted\.", r"download\.py" + r"torch\.", r"mirrors?\.[\w-]+\.", "bce" + r"bos\.")
INDEX_HOST = re.compile("|".join(HOSTS))
"""Hosts of package indexes. PaddlePaddle's own is not among them: the doctor has to name it."""


class Violation(NamedTuple):
    """A broken law: which, where, and what was found."""

    rule: str
    place: str
    found: str


class Source(NamedTuple):
    """A Python file: its path from the root, its lines, its tree, and the room it is in (None outside the package)."""

    path: str
    lines: List[str]
    tree: ast.Module
    room: Optional[str]


Rule = Callable[[Source], Iterator[str]]


def file_is_short(source: Source) -> Iterator[str]:
    if len(source.lines) > MAX_FILE_LINES:
        yield f"{len(source.lines)} lines, at most {MAX_FILE_LINES}"


def script_is_a_call(source: Source) -> Iterator[str]:
    if source.path in SCRIPTS and len(source.lines) > MAX_SCRIPT_LINES:
        yield f"{len(source.lines)} lines, at most {MAX_SCRIPT_LINES}"


def body_is_short(source: Source) -> Iterator[str]:
    for function in functions_of(source):
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        num_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        if num_lines > MAX_BODY_LINES:
            yield f"{function.name} has {num_lines} lines, at most {MAX_BODY_LINES}"


def nesting_is_shallow(source: Source) -> Iterator[str]:
    for function in functions_of(source):
        depth = nesting(function)
        if depth > MAX_NESTING:
            yield f"{function.name} nests {depth} deep, at most {MAX_NESTING}"


def parameters_are_few(source: Source) -> Iterator[str]:
    for function in functions_of(source):
        arguments = function.args
        names = [item.arg for item in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
        num_parameters = len(names) - (names[:1] in (["self"], ["cls"]))
        if num_parameters > MAX_PARAMETERS:
            yield f"{function.name} has {num_parameters} parameters, at most {MAX_PARAMETERS}"


def no_bare_except(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}"


def no_utils(source: Source) -> Iterator[str]:
    named = [part for part in Path(source.path).with_suffix("").parts if part in ("utils", "util", "misc")]
    if named:
        yield f"called {named[0]}; name it after what it does"


def no_relative_import(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            yield f"line {node.lineno}"


def imports_go_down(source: Source) -> Iterator[str]:
    if source.room is None:
        return
    for line, module in imports_of(source):
        if not module.startswith(PACKAGE + "."):
            continue
        other = module.split(".")[1]
        if source.room == "__init__":
            yield f"line {line}: the package itself imports no room, and this imports {other}"
        elif other not in HEIGHTS:
            yield f"line {line}: {other} is no room; give it a height"
        elif other not in (source.room, "core") and HEIGHTS[other] >= HEIGHTS[source.room]:
            yield f"line {line}: {source.room} ({HEIGHTS[source.room]}) imports {other} ({HEIGHTS[other]})"


def room_has_a_height(source: Source) -> Iterator[str]:
    if source.room not in (None, "__init__") and source.room not in HEIGHTS:
        yield f"{source.room} is no room; give it a height"


def light_rooms_do_without_paddle(source: Source) -> Iterator[str]:
    if source.room in ROOMS_WITHOUT_PADDLE:
        for line, module in imports_of(source):
            if module.split(".")[0] in PADDLE:
                yield f"line {line}: {source.room} imports {module}"


def package_stands_alone(source: Source) -> Iterator[str]:
    if source.room is not None:
        for line, module in imports_of(source):
            if module.split(".")[0] in ("tools", "tests"):
                yield f"line {line}: imports {module}"


RULES: Dict[str, Rule] = {rule.__name__: rule for rule in (
    file_is_short,
    script_is_a_call,
    body_is_short,
    nesting_is_shallow,
    parameters_are_few,
    no_bare_except,
    no_utils,
    no_relative_import,
    imports_go_down,
    room_has_a_height,
    light_rooms_do_without_paddle,
    package_stands_alone,
)}  # fmt: skip

TEXT_RULES = {"no_machine_path": MACHINE_PATH, "no_index_host": INDEX_HOST}


def functions_of(source: Source) -> Iterator[ast.FunctionDef]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(source.tree) if isinstance(node, FUNCTIONS))


def imports_of(source: Source) -> Iterator[Tuple[int, str]]:
    """(line, module) of every import, wherever it stands; `from paddle_sft import data` counts as paddle_sft.data."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            yield from ((node.lineno, f"{PACKAGE}.{alias.name}") for alias in node.names if alias.name in HEIGHTS)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module


def nesting(node: ast.AST) -> int:
    """How many blocks stand inside one another in a function; elif is no deeper than its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS):
            continue  # judged on its own
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def texts(root: Path) -> Iterator[Path]:
    """Every text file of the tree, without what is generated, hidden environments and version control."""
    for path in sorted(root.iterdir()):
        hidden = path.name.startswith(".") and path.name not in (".ci", ".gitignore")
        if hidden or path.name in SKIPPED_FOLDERS or path.name.endswith(SKIPPED_BY_ENDING):
            continue
        if path.is_dir():
            yield from texts(path)
        elif path.suffix in TEXT_SUFFIXES:
            yield path


def check(root: Path) -> List[Violation]:
    """Every broken law in the tree below `root`."""
    violations = []
    for file in texts(root):
        path = file.relative_to(root).as_posix()
        text = file.read_text(encoding="utf-8")
        for rule, pattern in TEXT_RULES.items():
            violations += [Violation(rule, path, match.group(0)) for match in pattern.finditer(text)]
        if file.suffix == ".py":
            parts = Path(path).with_suffix("").parts
            room = parts[1] if parts[0] == PACKAGE else None
            source = Source(path, text.splitlines(), ast.parse(text), room)
            violations += [Violation(name, path, found) for name, rule in RULES.items() for found in rule(source)]
    return violations


def test_the_house_keeps_its_laws():
    violations = check(Path(__file__).parents[1])
    assert not violations, "\n" + "\n".join(f"{v.place}: {v.rule}: {v.found}" for v in violations)


def deep(num_blocks: int) -> str:
    """A function of `num_blocks` nested ifs."""
    body = "".join("    " * (level + 1) + "if x:\n" for level in range(num_blocks))
    return "def f(x):\n" + body + "    " * (num_blocks + 1) + "pass\n"


def many(num_parameters: int) -> str:
    return "def f({}):\n    pass\n".format(", ".join(f"a{index}" for index in range(num_parameters)))


def long(num_lines: int) -> str:
    return 'def f():\n    """Not counted."""\n' + "    x = 1\n" * num_lines


PLANTS = [
    ("file_is_short", "paddle_sft/core/a.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    ("file_is_short", "tests/test_a.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    ("script_is_a_call", "run_finetune.py", "x = 1\n" * (MAX_SCRIPT_LINES + 1)),
    ("script_is_a_call", "merge_lora_params.py", "x = 1\n" * (MAX_SCRIPT_LINES + 1)),
    ("body_is_short", "paddle_sft/core/a.py", long(MAX_BODY_LINES + 1)),
    ("nesting_is_shallow", "tools/a.py", deep(MAX_NESTING + 1)),
    ("parameters_are_few", "paddle_sft/core/a.py", many(MAX_PARAMETERS + 1)),
    ("no_bare_except", "paddle_sft/core/a.py", "try:\n    x = 1\nexcept:\n    x = 2\n"),
    ("no_utils", "paddle_sft/core/utils.py", ""),
    ("no_utils", "paddle_sft/core/utils/a.py", ""),
    ("no_relative_import", "paddle_sft/core/a.py", "from .errors import DataError\n"),
    ("imports_go_down", "paddle_sft/core/a.py", "from paddle_sft.data.source import read_rows\n"),
    ("imports_go_down", "paddle_sft/packing/a.py", "import paddle_sft.masks.segments\n"),
    ("imports_go_down", "paddle_sft/data/a.py", "def f():\n    from paddle_sft import models\n"),
    ("imports_go_down", "paddle_sft/train/a.py", "from paddle_sft.stages.sft import SFT\n"),
    ("imports_go_down", "paddle_sft/cli/a.py", "from paddle_sft.attic.box import things\n"),
    ("imports_go_down", "paddle_sft/__init__.py", "from paddle_sft.core.log import rank\n"),
    ("room_has_a_height", "paddle_sft/attic/a.py", ""),
    ("light_rooms_do_without_paddle", "paddle_sft/data/a.py", "def f():\n    import paddle\n"),
    ("light_rooms_do_without_paddle", "paddle_sft/arguments/a.py", "from paddlenlp.trainer import Trainer\n"),
    ("package_stands_alone", "paddle_sft/cli/a.py", "from tools.quickstart import build\n"),
    ("no_machine_path", "paddle_sft/core/a.py", "x = '/ho" + "me/me/model'\n"),
    ("no_machine_path", "docs/a.md", "cd /ro" + "ot/project\n"),
    ("no_index_host", "Makefile", "pip install -i https://py" + "pi.org/simple x\n"),
    ("no_index_host", "README.md", "https://download.py" + "torch.org/whl/cpu\n"),
]


@pytest.mark.parametrize("rule, path, text", PLANTS, ids=[f"{rule}-{path}" for rule, path, _ in PLANTS])
def test_a_planted_fault_is_found_by_its_rule_alone(rule, path, text, tmp_path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text, encoding="utf-8")
    assert [(violation.rule, violation.place) for violation in check(tmp_path)] == [(rule, path)]


def test_every_rule_has_a_planted_fault():
    assert {rule for rule, _, _ in PLANTS} == {*RULES, *TEXT_RULES}


ALLOWED = {
    "at the budgets": ("paddle_sft/core/a.py", deep(MAX_NESTING) + many(MAX_PARAMETERS) + long(MAX_BODY_LINES)),
    "elif is no deeper": (
        "paddle_sft/core/a.py",
        "def f(x):\n    if x == 0:\n        pass\n" + "".join(f"    elif x == {i}:\n        pass\n" for i in range(9)),
    ),
    "self is no parameter": (
        "paddle_sft/core/a.py",
        "class A:\n    def f(self, " + ", ".join(f"a{index}" for index in range(MAX_PARAMETERS)) + "):\n        pass\n",
    ),
    "down the house": ("paddle_sft/train/a.py", "import paddle\nfrom paddle_sft.adapters.attach import attach\n"),
    "its own room": ("paddle_sft/data/a.py", "from paddle_sft.data.source import read_rows\n"),
    "the doctor's one host": ("paddle_sft/cli/a.py", "x = 'https://www.paddlepaddle.org.cn/packages/stable'\n"),
    "paths of the user": ("docs/a.md", "`./config/llama/lora_argument.json`, outputs/tmp/x, ~/home/x\n"),
    "an environment beside the project": (".venv/lib/a.py", "try:\n    x = 1\nexcept:\n    x = 2\n"),
}


@pytest.mark.parametrize("path, text", ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_is_not_reported(path, text, tmp_path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text, encoding="utf-8")
    assert check(tmp_path) == []
