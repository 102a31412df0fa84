"""A tiny base model with data, and one finished run over them, for commands typed as a user types them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.e2e.commands import Lab


@pytest.fixture(scope="session")
def lab(model_folder, tmp_path_factory) -> Lab:
    """22 training rows, so that the last step of an epoch is a short one."""
    data = tiny.make_data(tmp_path_factory.mktemp("lab") / "data", num_train=22, num_dev=8)
    return Lab(model_folder(), data)


@pytest.fixture(scope="session")
def _finished_once(lab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    lab.train(folder)
    return folder


@pytest.fixture
def finished(_finished_once, tmp_path) -> Path:
    """A copy of the output folder of a LoRA run of 4 steps with checkpoints at 2 and 4."""
    return Path(shutil.copytree(_finished_once, tmp_path / "finished"))
