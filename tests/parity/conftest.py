"""The reference process, one for the session, and the versions that are compared."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from paddle_sft.core.atomic import write_json
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.survey import VERIFIED
from tests.parity import cases
from tests.parity.asking import MISSING, VARIABLE, Reference

_MEASURED: List[str] = []
_VERIFIED: Dict[str, Dict[str, float]] = {}
_VERSIONS: Dict[str, str] = {}

WRITE = "PADDLE_SFT_WRITE_VERIFIED"
"""Set to 1 (make parity-table does), what a run of all parity tests measured is written to VERIFIED."""
WHAT = ("configs", "logits", "packed", "gradients", "merged", "flashmask")
"""What has to be known of every family."""


@pytest.fixture(scope="session")
def measured() -> Callable[[str, float, float], None]:
    """Note a difference and its tolerance for the table at the end of the session."""

    def note(what: str, difference: float, tolerance: float) -> None:
        _MEASURED.append(f"{difference:8.1e} of {tolerance:.0e}  {what}")

    return note


@pytest.fixture(scope="session")
def verified() -> Callable[..., None]:
    """Note a number for the table of families in the docs; of several the largest counts, or their sum."""

    def note(family: str, what: str, value: float, add: bool = False) -> None:
        known = _VERIFIED.setdefault(family, {})
        known[what] = value + known.get(what, 0) if add else max(value, known.get(what, value))

    return note


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get(WRITE) != "1":
        return
    lacking = {name: [what for what in WHAT if what not in _VERIFIED.get(name, {})] for name in FAMILIES}
    lacking = {name: what for name, what in lacking.items() if what}
    if exitstatus or lacking:
        _MEASURED.append(f"{VERIFIED.name} is not written: tests failed, or nothing was measured of {lacking}")
        session.exitstatus = session.exitstatus or 1
        return
    families = {name: {what: _rounded(_VERIFIED[name][what]) for what in WHAT} for name in FAMILIES}
    write_json(VERIFIED, {"versions": _VERSIONS, "families": families})


def _rounded(value: float) -> float:
    """Two digits, so that the file changes when something did."""
    return value if isinstance(value, (bool, int)) else float(f"{value:.1e}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MEASURED:
        terminalreporter.section("largest differences, and what is allowed")
        for line in _MEASURED:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Reference]:
    if not os.environ.get(VARIABLE):
        pytest.fail(MISSING, pytrace=False)
    process = Reference(os.environ[VARIABLE], tmp_path_factory.mktemp("reference") / "stderr.txt")
    ours = {name: version(name) for name in ("paddlepaddle", "paddlenlp", "numpy")}
    theirs = process.ask("versions")
    _VERSIONS.update({**ours, **theirs})
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\ncomparing {_listed(ours)} (Python {platform.python_version()})")
        print(f"     with {_listed(theirs)}")
    yield process
    process.close()


@pytest.fixture(scope="session")
def bases(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(shape of tests.parity.cases, seed) -> a model folder of transformers, made once; for tests that only read it."""
    made: Dict[Any, Path] = {}

    def base(shape: str, seed: int = 0) -> Path:
        if (shape, seed) not in made:
            folder = tmp_path_factory.mktemp("base") / shape
            made[shape, seed] = cases.make_base(reference, folder, shape, seed=seed)
        return made[shape, seed]

    return base


def _listed(versions: dict) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
