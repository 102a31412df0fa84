"""The reference process, one for the session, and the versions that are compared."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Callable, Iterator, List

import pytest

from tests.parity.asking import MISSING, VARIABLE, Reference

_MEASURED: List[str] = []


@pytest.fixture(scope="session")
def measured() -> Callable[[str, float, float], None]:
    """Note a difference and its tolerance for the table at the end of the session."""

    def note(what: str, difference: float, tolerance: float) -> None:
        _MEASURED.append(f"{difference:8.1e} of {tolerance:.0e}  {what}")

    return note


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
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\ncomparing {_listed(ours)} (Python {platform.python_version()})")
        print(f"     with {_listed(process.ask('versions'))}")
    yield process
    process.close()


def _listed(versions: dict) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
