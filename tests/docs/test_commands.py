"""Every command in the pages works. Each page is read from top to bottom on a desk prepared for it, as a user would.

A command that is neither in one of the tables below nor of a kind that `perform` knows fails its page's test. The
Chinese pages have the same commands (test_pages.py), so they are not run twice. A text block behind a bash block is
what its commands print.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli import launch
from paddle_sft.cli.entry import run
from paddle_sft.cli.main import main
from tests import tiny
from tests.docs.reading import BY_NAME, ROOT, Block, Command, blocks, commands, page_commands

IN_CI = ("make test", "make quickstart", "make parity", "make parallel")
"""Run by .ci/run, which takes minutes."""

TAKES_AN_HOUR = ("make bench",)
"""The page runs a small one beside it."""

AS_MAKE_DOES = ("pip install -e '.[cpu]'", "pip install -e '.[cpu,elastic]'", "pip install -e .")
"""`make test` installs in this way, with more extras."""

_RUN = "run_finetune.py ./config/llama/lora_argument.json"
_GPUS = "it needs eight GPUs; here its options are parsed, its launch is planned, and its argument file is loaded"
GPU_ONLY: Dict[str, str] = {
    f'python -u -m paddle.distributed.launch --gpus "0,1,2,3,4,5,6,7" {_RUN}': _GPUS,
    f"paddle-sft launch --gpus 0-7 {_RUN}": _GPUS,
}
NOT_RUN = ("# not run on a GPU by us", "# 我们没有在 GPU 上运行过")
"""The comment that a block with such a command carries, in either language."""

SCRIPTS = {"run_finetune.py": "paddle_sft.cli.finetune", "merge_lora_params.py": "paddle_sft.cli.merge"}
TOOLS = tuple(f"tools/{name}.py" for name in ("benchmark_adapters", "benchmark_attention", "benchmark_operators"))
"""Run in this process, which spares seconds of imports; the others start or fork processes of their own."""
ONCE = ("paddle-sft doctor", "paddle-sft launch --nproc")
"""Beginnings of commands that start other processes: run on the first page that has them."""

MAY_FIND = ("paddle-sft doctor", "paddle-sft data check my_dirty", "paddle-sft plan config/plan/llama3_70b_sft")
"""Beginnings of commands that end with 1 when the machine, or what their example gives them, has something to mend."""

RUN_PAGES = [name for name in BY_NAME if not name.endswith("_zh.md")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which the commands run as written: where a page names a large model, a tiny one stands."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in SCRIPTS:
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(ROOT / "config", folder / "config")
    base = tiny.make_model(folder / "meta-llama" / "Meta-Llama-3-8B")
    for name in ("my_model", "outputs/quickstart/base"):
        shutil.copytree(base, folder / name)
    tiny.make_data(folder / "data", num_train=12, num_dev=4)
    shutil.copytree(folder / "data", folder / "outputs" / "quickstart" / "data")
    save_named_blocks(BY_NAME["docs/getting_started.md"], folder)
    shutil.copyfile(folder / "my_lora.json", folder / "CONFIG.json")
    with environment_kept(), working_in(folder):
        assert perform(Command("python -m venv .venv", "")) == 0  # every make target leaves one
        adapter = ["config/quickstart/lora_argument.json", "--max_steps", "2", "--device", "cpu"]
        assert run(SCRIPTS["run_finetune.py"], adapter) == 0  # what `make quickstart` leaves in outputs/quickstart/lora
    return folder


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """Whatever a command does to os.environ is undone: it settles threads for its own process."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The working directory is `folder`."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def save_named_blocks(page: Path, folder: Path) -> None:
    """Save every block that names a file, as the page tells the reader to."""
    for block in blocks(page):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text + "\n", encoding="utf-8")


def perform(command: Command) -> int:
    """Run a command in the working directory, in this process where that is possible; returns its exit code.

    Raises:
        AssertionError: a command of no known kind.
    """
    words = command.words
    if words[0] == "paddle-sft":
        return main(words[1:] + (["--skip-imports"] if words[1:] == ["doctor"] else []))  # tests/cli has the imports
    if words[0] == "python" and words[1] in SCRIPTS:
        return run(SCRIPTS[words[1]], words[2:])
    if words[:3] == ["python", "-m", "venv"]:
        return subprocess.call([sys.executable, "-m", "venv", "--without-pip", *words[3:]])  # pip takes 3 s, untouched
    if words[0] == "python" and words[1] in TOOLS:
        return runpy.run_path(str(ROOT / words[1]))["main"](words[2:])
    if words[0] == "python" and words[1].startswith("tools/"):
        return subprocess.call([sys.executable, *words[1:]], cwd=ROOT)
    if words[0] == "source":
        return subprocess.call(["bash", "-c", command.text])
    raise AssertionError(f"{command.text!r}: a kind of command that this test can't run; teach it, or list the command")


def check_gpu_command(command: Command) -> None:
    """All of a GPU command that can be checked without one."""
    assert any(mark in command.comments for mark in NOT_RUN), f"{command.text}: its block must say {NOT_RUN}"
    words = command.words
    if words[0] == "python":
        assert words[:4] == ["python", "-u", "-m", "paddle.distributed.launch"] and words[4] == "--gpus"
        assert re.fullmatch(r"\d+(,\d+)*", words[5]), "Paddle's launcher knows comma lists only"
        script, arguments = words[6], words[7:]
    else:
        request = launch.parse_request(words[2:])
        plan = launch.make_plan(request, [str(gpu) for gpu in range(8)], {})
        assert plan.command[plan.command.index("--gpus") + 1] == "0,1,2,3,4,5,6,7"
        script, arguments = request.script, list(request.script_arguments)
    assert script in SCRIPTS
    load_finetune_arguments(arguments)


def check_install_command(command: Command) -> None:
    """The Makefile installs in the same way, with at least these extras."""
    made = re.search(r"pip install .*-e '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", command.words[-1])
    assert set((asked.group(1) or "").split(",")) - {""} <= set(made.group(1).split(","))


def carry_out(command: Command, done: set) -> int:
    """Run or check a command, as the tables above say; returns its exit code."""
    if command.text in GPU_ONLY:
        check_gpu_command(command)
    elif command.text in AS_MAKE_DOES:
        check_install_command(command)
    elif command.text not in (*IN_CI, *TAKES_AN_HOUR) and not (command.text.startswith(ONCE) and command.text in done):
        done.add(command.text)
        return perform(command)
    return 0


def same_shape(text: str) -> str:
    """A line with every number replaced and blanks joined: what a page may promise of a line of output."""
    return re.sub(r"\d[\d,.]*(e[+-]?\d+)?", "0", " ".join(text.split()))


def missing_lines(promised: str, output: str) -> List[str]:
    """Lines of a text block that the output doesn't have, up to numbers."""
    found = {same_shape(line) for line in output.splitlines()}
    return [line for line in promised.splitlines() if line.strip() and same_shape(line) not in found]


@pytest.fixture(scope="module")
def done() -> set:
    """Commands that were run already, on any page."""
    return set()


@pytest.mark.parametrize("name", RUN_PAGES)
def test_a_page_works_from_top_to_bottom(name, prepared, done, tmp_path, capfd, monkeypatch):
    desk = tmp_path / "desk"
    shutil.copytree(prepared, desk)
    save_named_blocks(BY_NAME[name], desk)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes that launch starts
    output = None
    with environment_kept(), working_in(desk):
        for block in blocks(BY_NAME[name]):
            if block.language == "text" and output is not None:
                assert not missing_lines(block.text, output), f"line {block.line}; the output was:\n{output}"
            output = follow(block, done, capfd) if block.language == "bash" else None


def follow(block: Block, done: set, capfd) -> str:
    """Run a block's commands one after the other; returns what they printed."""
    printed = ""
    for command in commands(block):
        code = carry_out(command, done)
        out, err = capfd.readouterr()
        allowed = (0, 1) if command.text.startswith(MAY_FIND) else (0,)
        assert code in allowed, f"{command.text} ended with {code}:\n{out[-2000:]}\n{err[-2000:]}"
        printed += out + err
    return printed


def test_ci_runs_what_is_left_to_it():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in IN_CI:
        assert re.search(rf"^(stage )?{command}$", script, flags=re.MULTILINE), command
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [command.split()[1] for command in (*IN_CI, *TAKES_AN_HOUR)]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_tables_list_only_what_the_pages_say():
    said = {command for name in BY_NAME for command in page_commands(BY_NAME[name])}
    assert {*IN_CI, *TAKES_AN_HOUR} | set(AS_MAKE_DOES) | set(GPU_ONLY) <= said


def test_the_commands_of_the_requirements_are_in_the_readme():
    said = page_commands(BY_NAME["README.md"])
    assert set(IN_CI[:2]) | set(GPU_ONLY) <= set(said)
    for stage in ("lora", "sft", "pretrain"):
        assert f"python run_finetune.py ./config/llama/{stage}_argument.json" in said
    merge = next(shlex.split(command) for command in said if command.startswith("python merge_lora_params.py"))
    assert {"--model_name_or_path", "--lora_path", "--output_path", "--device", "--safe_serialization"} <= set(merge)


@pytest.mark.parametrize(
    "line", ["rm -rf outputs", "python other.py", "paddle-sft trian x.json", "python run_finetune.py no_such_file.json"]
)
def test_a_command_that_nobody_can_run_fails_its_page(line, done, capfd, tmp_path):
    with working_in(tmp_path), pytest.raises(AssertionError):
        follow(Block("bash", "", line, 1), done, capfd)


def test_a_promised_line_that_is_not_printed_is_seen():
    assert missing_lines("steps  10 (1 an epoch)\nadapter", "x\n  steps 1,300  (20 an epoch)\n") == ["adapter"]


def test_a_gpu_command_must_say_that_it_was_not_run():
    command = next(iter(GPU_ONLY))
    with pytest.raises(AssertionError, match="must say"):
        check_gpu_command(Command(command, "# starts eight ranks"))
