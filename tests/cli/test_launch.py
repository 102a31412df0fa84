"""paddle-sft launch: what command it builds, what it refuses, and that it really starts ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_sft.cli.launch import (
    Request,
    expand_gpus,
    main,
    make_plan,
    parse_request,
    replace_command_by_file,
    start_of_command,
)
from paddle_sft.cli.launch_job import FailedRank, failure_report, parse_failed_rank, positive_exit_code
from paddle_sft.core.errors import ArgumentError

ROOT = Path(__file__).parents[2]
LAUNCHER = start_of_command()
EIGHT = [str(index) for index in range(8)]

ALL_REDUCE = """
import os
import sys
import paddle
import paddle.distributed as dist

dist.init_parallel_env()
total = paddle.to_tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
with open(f"rank{dist.get_rank()}.txt", "w") as file:
    file.write(f"{float(total)} {os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}")
if "fail" in sys.argv and dist.get_rank() == 1:
    sys.exit("rank one gives up")
"""


@pytest.mark.parametrize(
    "text, gpus",
    [
        ("0-7", EIGHT),
        ("0,1,4-6", ["0", "1", "4", "5", "6"]),
        ("3", ["3"]),
        ("0, 2 - 3", ["0", "2", "3"]),
        ("6,1", ["6", "1"]),
    ],
)
def test_ranges_and_lists_of_gpus_become_single_names(text, gpus):
    assert expand_gpus(text) == gpus


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("7-0", "runs backwards; write 0-7"),
        ("0,,1", "'' is neither a number nor a range"),
        ("", "neither a number nor a range"),
        ("gpu0", "'gpu0' is neither a number nor a range; write 0-7 or 0,1,4-6"),
        ("0-3,2", "names GPU 2 more than once"),
    ],
)
def test_gpus_that_make_no_sense_are_refused_with_the_right_spelling(text, complaint):
    with pytest.raises(ArgumentError, match=re.escape(complaint)):
        expand_gpus(text)


def test_on_gpus_a_range_reaches_the_launcher_as_a_comma_list_and_the_environment_is_untouched():
    request = Request("run_finetune.py", ("config.json",), gpus="0-3,6")
    environment = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    plan = make_plan(request, EIGHT, environment)
    assert plan.command == [*LAUNCHER, "--gpus", "0,1,2,3,6", "--log_dir", "log", "run_finetune.py", "config.json"]
    assert plan.environment == environment


def test_a_gpu_that_is_not_there_is_refused_before_the_launcher_starts():
    with pytest.raises(ArgumentError, match="asks for GPU 2, 3, and this machine shows 0, 1"):
        make_plan(Request("a.py", gpus="0-3"), ["0", "1"], {})


def test_gpus_and_nproc_that_contradict_each_other_are_refused():
    with pytest.raises(ArgumentError, match=r"means 4 rank\(s\).*--nproc says 2"):
        make_plan(Request("a.py", gpus="0-3", nproc=2), EIGHT, {})


def test_without_a_gpu_the_ranks_get_no_devices_one_thread_and_no_cuda_variable():
    plan = make_plan(Request("a.py", nproc=2), [], {"CUDA_VISIBLE_DEVICES": "", "HOME": "h"})
    assert plan.command == [*LAUNCHER, "--nproc_per_node", "2", "--log_dir", "log", "a.py"]
    assert plan.environment == {"HOME": "h", "OMP_NUM_THREADS": "1"}
    assert any("OMP_NUM_THREADS=1" in note for note in plan.notes)
    assert any("CUDA_VISIBLE_DEVICES is unset" in note for note in plan.notes)


def test_a_thread_count_the_user_set_is_kept():
    plan = make_plan(Request("a.py", nproc=2), [], {"OMP_NUM_THREADS": "3"})
    assert plan.environment == {"OMP_NUM_THREADS": "3"}
    assert not any("OMP_NUM_THREADS" in note for note in plan.notes)


def test_gpus_on_a_machine_without_a_gpu_is_refused_and_nproc_is_named():
    with pytest.raises(ArgumentError, match="--gpus 0-7 was given, and paddle sees no GPU here; use --nproc N"):
        make_plan(Request("a.py", gpus="0-7"), [], {})


def test_everything_behind_the_script_belongs_to_the_script():
    request = parse_request("--nproc 2 --log_dir logs a.py config.json --gpus 5 --log_dir x".split())
    assert request == Request("a.py", ("config.json", "--gpus", "5", "--log_dir", "x"), nproc=2, log_dir="logs")


def test_nproc_below_one_is_refused():
    with pytest.raises(ArgumentError, match="--nproc must be at least 1, got 0"):
        parse_request(["--nproc", "0", "a.py"])


def test_a_command_name_becomes_a_file_because_the_launcher_starts_files_only():
    request = replace_command_by_file(Request("train", ("config.json", "--lora_rank", "4"), nproc=2))
    assert Path(request.script) == ROOT / "paddle_sft" / "__main__.py"
    assert request.script_arguments == ("train", "config.json", "--lora_rank", "4")


def test_a_misspelt_command_and_a_script_that_is_not_there_are_named():
    with pytest.raises(ArgumentError, match="script is 'trian', did you mean 'train'"):
        replace_command_by_file(Request("trian"))
    with pytest.raises(ArgumentError, match="there is no script no_such.py"):
        replace_command_by_file(Request("no_such.py"))


def test_the_rank_that_failed_is_read_from_the_line_of_the_launcher():
    line = "Container rank 3 status failed cmd ['python', '-u', 'a.py', 'my code 5 log b'] code -9 log my logs/log.3\n"
    assert parse_failed_rank(line) == FailedRank(3, -9, "my logs/log.3")
    assert parse_failed_rank("LAUNCH INFO Pod failed\n") is None


def test_the_report_names_rank_and_code_and_ends_with_the_end_of_its_log(tmp_path):
    log = tmp_path / "workerlog.1"
    log.write_text("\n".join(f"line {number}" for number in range(100)), encoding="utf-8")
    report = failure_report(FailedRank(1, 7, str(log)))
    assert report.startswith("launch: rank 1 failed with exit code 7")
    assert report.endswith("line 99") and "line 10\n" not in report


def test_a_rank_killed_by_a_signal_gives_the_code_a_shell_would_give():
    assert (positive_exit_code(-9), positive_exit_code(7), positive_exit_code(0)) == (137, 7, 0)


def test_the_file_given_to_the_launcher_runs_commands_and_does_not_hide_top_level_modules(tmp_path):
    """Started as a file, Python puts paddle_sft/ first on the path, where `data` or `models` would be our rooms."""
    (tmp_path / "data.py").write_text("", encoding="utf-8")
    program = str(ROOT / "paddle_sft" / "__main__.py")
    done = subprocess.run([sys.executable, program, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("paddle-sft ")
    check = f"import runpy, sys; sys.argv = ['x', '--version']; sys.path[0] = {str(ROOT / 'paddle_sft')!r}\n"
    check += f"try: runpy.run_path({program!r}, run_name='__main__')\nexcept SystemExit: print(sys.path[0])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == str(ROOT)


def test_two_cpu_ranks_start_and_add_up_their_numbers(tmp_path):
    (tmp_path / "add.py").write_text(ALL_REDUCE, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # Paddle's launcher alone would die on this
    program = str(ROOT / "paddle_sft" / "__main__.py")
    command = [sys.executable, program, "launch", "--nproc", "2", "add.py", "--word", "a b"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "launch: OMP_NUM_THREADS=1, so that" in done.stderr  # said although importing paddle sets it as well
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}.txt").read_text() == "3.0 1 ['--word', 'a b']"


def test_the_exit_code_and_the_log_of_the_failing_rank_come_back(tmp_path, monkeypatch, capfd):
    (tmp_path / "add.py").write_text(ALL_REDUCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["--nproc", "2", "--log_dir", "ranks", "add.py", "fail"]) == 1
    shown = capfd.readouterr().err
    assert f"rank 1 failed with exit code 1; the end of {Path('ranks') / 'workerlog.1'}:" in shown
    assert shown.rstrip().endswith("rank one gives up")
