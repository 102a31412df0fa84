"""The doctor sees each known fault, explains it, and says nothing about a sound machine."""

import ast
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paddle_sft.cli import doctor
from paddle_sft.cli.faults import (
    KNOWN_FAULTS,
    find_advice,
    find_problems,
    gpu_install_command,
    paddle_install_command,
)
from paddle_sft.cli.machine import Driver, Imports, Machine, parse_driver_cuda, try_imports, version_numbers

SOUND = Machine(
    python=(3, 11, 7),
    executable="python",
    versions={
        "paddlepaddle": "3.3.1",
        "paddlenlp": "3.0.0b4",
        "paddleslim": "2.6.0",
        "numpy": "1.26.4",
        "protobuf": "5.29.6",
        "tokenizers": "0.21.4",
        "sentencepiece": "0.2.3",
        "datasets": "3.6.0",
        "pyarrow": "20.0.0",
        "aistudio-sdk": "0.2.6",
        "decorator": "5.3.1",
        "setuptools": "80.10.2",
        "pyyaml": "6.0.3",
    },
    imports=Imports(tried=True, compiled_with_cuda=False),
    cpu="some processor",
    num_cores=2,
)
A100 = Driver(gpus=("NVIDIA A100-SXM4-80GB, 81920 MiB",), cuda=(12, 4))


def with_versions(**changes):
    """SOUND with other versions; None takes a distribution away. Underscores stand for hyphens."""
    versions = {**SOUND.versions, **{name.replace("_", "-"): version for name, version in changes.items()}}
    return replace(SOUND, versions={name: version for name, version in versions.items() if version is not None})


def names(machine):
    return [problem.name for problem in find_problems(machine)]


def test_a_sound_machine_has_no_problem():
    assert find_problems(SOUND) == []


BROKEN = {
    "Python version": replace(SOUND, python=(3, 13, 0)),
    "paddle is not installed": with_versions(paddlepaddle=None),
    "paddlepaddle and paddlepaddle-gpu are both installed": with_versions(paddlepaddle_gpu="3.3.1"),
    "a GPU, but the CPU build of paddle": replace(SOUND, driver=A100),
    "paddlepaddle-gpu older than 3.0": with_versions(paddlepaddle=None, paddlepaddle_gpu="2.6.2.post120"),
    "paddlepaddle older than 3.0": with_versions(paddlepaddle="2.6.2"),
    "the NVIDIA driver does not answer": replace(SOUND, driver=Driver(error="couldn't communicate")),
    "CUDA_VISIBLE_DEVICES is set for a CPU build": replace(SOUND, settings={"CUDA_VISIBLE_DEVICES": ""}),
    "paddlenlp is not installed": with_versions(paddlenlp=None),
    "paddleslim is not installed": with_versions(paddleslim=None),
    "sentencepiece is not installed": with_versions(sentencepiece=None),
    "tokenizers is not installed": with_versions(tokenizers=None),
    "pyyaml is not installed": with_versions(pyyaml=None),
    "decorator is not installed": with_versions(decorator=None),
    "setuptools is not installed": with_versions(setuptools=None),
    "paddlenlp is not 3.0.0b4": with_versions(paddlenlp="2.8.1"),
    "aistudio-sdk must be below 0.3": with_versions(aistudio_sdk="0.3.0"),
    "protobuf must be below 6": with_versions(protobuf="6.30.0"),
    "numpy must be below 2": with_versions(numpy="2.0.0"),
    "pyarrow must be below 21": with_versions(pyarrow="21.0.0"),
    "datasets must be below 4": with_versions(datasets="4.0.0"),
    "setuptools must be below 81": with_versions(setuptools="81"),
    "tokenizers must be below 0.22": with_versions(tokenizers="0.22.0"),
}


@pytest.mark.parametrize("fault", [fault.name for fault in KNOWN_FAULTS])
def test_each_known_fault_is_the_only_one_seen_on_a_machine_that_has_only_it(fault):
    assert names(BROKEN[fault]) == [fault]
    problem = find_problems(BROKEN[fault])[0]
    assert problem.reason and problem.remedy


def test_the_remedy_for_a_version_is_a_pip_command_for_the_python_that_was_looked_at():
    machine = replace(with_versions(protobuf="7.0.0"), executable="my/python")
    assert find_problems(machine)[0].remedy == "my/python -m pip install 'protobuf<6'"


def test_doctor_and_setup_agree_on_every_upper_bound():
    """setup.py keeps the faults out, the doctor finds them when something else brought them in."""
    setup = Path(__file__).parents[2] / "setup.py"
    assigned = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(setup.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
    }
    in_setup = {
        f"{match.group(1)} must be below {match.group(2)}"
        for match in (re.match(r"([\w-]+).*?<([\d.]+)$", item) for item in assigned["DEPENDENCIES"])
        if match
    }
    in_doctor = {fault.name for fault in KNOWN_FAULTS if "must be below" in fault.name}
    # paddleslim has had no release after 2.6
    assert in_doctor == in_setup - {"paddleslim must be below 2.7"}


@pytest.mark.parametrize(
    "cuda, release_and_folder",
    [
        ((13, 1), "paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu130/"),
        ((13, 0), "paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu130/"),
        ((12, 9), "paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu129/"),
        ((12, 8), "paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/"),
        ((12, 10), "paddlepaddle-gpu==3.3.1 -i https://www.paddlepaddle.org.cn/packages/stable/cu129/"),
        ((11, 8), "paddlepaddle-gpu==3.2.0 -i https://www.paddlepaddle.org.cn/packages/stable/cu118/"),
    ],
)
def test_the_gpu_wheel_is_the_newest_the_driver_can_run(cuda, release_and_folder):
    machine = replace(SOUND, driver=Driver(gpus=("a GPU",), cuda=cuda))
    assert gpu_install_command(machine) == f"python -m pip install {release_and_folder}"


@pytest.mark.parametrize("cuda", [(11, 7), None])
def test_a_driver_too_old_or_unknown_gets_no_wheel_but_a_sentence(cuda):
    machine = replace(SOUND, driver=Driver(gpus=("a GPU",), cuda=cuda))
    assert gpu_install_command(machine).startswith("install an NVIDIA driver for CUDA 11.8 or later")


def test_a_missing_paddle_is_mended_by_the_build_that_fits_the_machine():
    assert paddle_install_command(SOUND) == "python -m pip install paddlepaddle==3.3.1"
    assert "cu126" in paddle_install_command(replace(SOUND, driver=A100))


@pytest.mark.parametrize(
    "header, cuda",
    [
        ("| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: 12.4     |", (12, 4)),
        ("| NVIDIA-SMI 450.80.02    Driver Version: 450.80.02    CUDA Version: 11.0     |", (11, 0)),
        ("| NVIDIA-SMI 610.10   KMD Version: 610.10   CUDA UMD Version: 13.3     |", (13, 3)),
        ("| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: N/A      |", None),
        ("", None),
    ],
)
def test_the_cuda_version_is_read_from_the_header_of_nvidia_smi(header, cuda):
    assert parse_driver_cuda(header) == cuda


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("3.3.1", (3, 3, 1)),
        ("3.0.0b4", (3, 0, 0)),
        ("2.6.2.post120", (2, 6, 2)),
        ("2.0+cu118", (2, 0)),
        ("6", (6,)),
    ],
)
def test_a_version_is_compared_by_its_first_three_numbers(text, numbers):
    assert version_numbers(text) == numbers


def test_an_import_that_fails_for_no_known_reason_is_shown_with_its_last_lines_and_a_command():
    failed = Imports(tried=True, failed="paddlenlp.trainer", lines="ImportError: cannot import name 'x'")
    problem = find_problems(replace(SOUND, imports=failed))[0]
    assert problem.name == "import paddlenlp.trainer fails"
    assert "cannot import name 'x'" in problem.reason
    assert problem.remedy == "python -m pip install --force-reinstall --no-deps 'paddlenlp==3.0.0b4'"


def test_an_import_that_fails_beside_a_known_fault_points_to_that_fault():
    failed = Imports(tried=True, failed="paddlenlp", lines="ImportError")
    problems = find_problems(replace(with_versions(aistudio_sdk="0.4.0"), imports=failed))
    assert [problem.name for problem in problems] == ["aistudio-sdk must be below 0.3", "import paddlenlp fails"]
    assert "mend what is listed above" in problems[1].remedy


def test_modules_are_tried_in_a_process_of_their_own_and_the_first_failure_is_reported():
    report = try_imports(("json", "no_such_module", "not_this_one_either"))
    assert report.tried and report.failed == "no_such_module"
    assert "No module named 'no_such_module'" in report.lines
    assert "no_such_module" not in sys.modules
    assert try_imports(("json",)).failed == ""


def test_a_process_that_dies_while_importing_is_a_failed_import(tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text("import os; os._exit(132)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = try_imports(("dies",))
    assert report.failed == "dies" and "code 132" in report.lines


def test_one_thread_on_several_cores_is_advice_where_the_user_set_it_and_not_a_problem():
    """What is unset, the commands that compute set by themselves."""
    slow = replace(SOUND, settings={"OMP_NUM_THREADS": "1"})
    assert [advice.remedy for advice in find_advice(slow)] == ["unset OMP_NUM_THREADS"]
    assert find_problems(slow) == []
    assert find_advice(replace(SOUND, settings={})) == []
    assert find_advice(replace(slow, num_cores=1)) == []
    assert find_advice(replace(slow, driver=A100)) == []


def test_exit_code_is_one_and_every_remedy_is_printed_when_something_is_wrong(monkeypatch, capsys):
    broken = with_versions(protobuf="7.0.0", numpy="2.1.0")
    monkeypatch.setattr(doctor, "inspect_machine", lambda with_imports: broken)
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "pip install 'protobuf<6'" in printed and "pip install 'numpy<2'" in printed
    assert "2 thing(s) to mend" in printed


def test_exit_code_is_zero_when_all_is_well(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "inspect_machine", lambda with_imports: SOUND)
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.endswith("All is well.\n")


def test_json_carries_the_same_problems(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "inspect_machine", lambda with_imports: with_versions(numpy="2.1.0"))
    assert doctor.main(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem["name"] for problem in report["problems"]] == ["numpy must be below 2"]
    assert report["machine"]["versions"]["numpy"] == "2.1.0"


def test_this_environment_is_sound_and_paddle_was_not_needed_to_look(capsys):
    """Runs the real inspection of the environment the tests run in, without importing paddle here."""
    assert doctor.main(["--json", "--skip-imports"]) == 0, capsys.readouterr().out
