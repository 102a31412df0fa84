"""The command table: names, help, and how errors leave the process."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from paddle_sft.cli import entry
from paddle_sft.cli.main import COMMANDS, main
from paddle_sft.core.errors import DataError

ROOT = Path(__file__).parents[2]


def command_that(monkeypatch, behave):
    """Put a command in place of a module, and return the module's name."""
    module = types.ModuleType("fake_command")
    module.main = behave
    monkeypatch.setitem(sys.modules, "fake_command", module)
    return "fake_command"


def raising(error):
    def behave(argv):
        raise error

    return behave


def test_an_unknown_command_is_refused_with_the_nearest_name(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_no_command_is_an_error_that_shows_the_help(capsys):
    assert main([]) == 2
    assert "usage: paddle-sft" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module(name):
    assert (ROOT / (COMMANDS[name].module.replace(".", "/") + ".py")).is_file()


def test_arguments_reach_the_command_and_its_exit_code_comes_back(monkeypatch):
    seen = []
    module = command_that(monkeypatch, lambda argv: seen.append(argv) or 5)
    assert entry.run(module, ["a", "--b"]) == 5
    assert seen == [["a", "--b"]]


def test_an_error_the_user_can_mend_is_one_message_and_exit_code_two(monkeypatch, capsys):
    module = command_that(monkeypatch, raising(DataError("train.json line 3: no 'tgt'")))
    assert entry.run(module, []) == 2
    assert capsys.readouterr().err == "error: train.json line 3: no 'tgt'\n"


def test_an_interrupt_is_exit_code_130_without_a_traceback(monkeypatch, capsys):
    assert entry.run(command_that(monkeypatch, raising(KeyboardInterrupt())), []) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_package_points_to_the_doctor(monkeypatch, capsys):
    module = command_that(monkeypatch, raising(ModuleNotFoundError("No module named 'paddle'", name="paddle")))
    assert entry.run(module, []) == 1
    shown = capsys.readouterr().err
    assert "No module named 'paddle'" in shown and "paddle-sft doctor" in shown and "Traceback" not in shown


def test_a_programming_error_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        entry.run(command_that(monkeypatch, raising(ZeroDivisionError())), [])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"]])
def test_the_table_answers_without_importing_paddle(arguments):
    check = f"import sys; from paddle_sft.cli.main import main; main({arguments!r}); sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True).returncode == 0
