"""The tools are scripts beside the package, not part of it; these tests import them from their folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def quickstart_folder(tmp_path_factory):
    """The data set of this machine's standard library, built once: it takes three seconds."""
    import quickstart_data

    path = tmp_path_factory.mktemp("quickstart")
    assert quickstart_data.main(["--output_dir", str(path)]) == 0
    return path
