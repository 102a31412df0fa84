from __future__ import annotations

import logging
import os

import pytest

from paddle_sft.core import threads
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.log import get_logger, num_ranks, rank, set_level
from paddle_sft.core.threads import import_quietly, num_cores, ranks_here, settle_threads


def test_a_known_name_gives_its_entry():
    assert choose("stage", "sft", {"sft": 1, "pretrain": 2}) == 1


def test_an_unknown_name_is_answered_with_the_nearest_and_all_allowed_ones():
    with pytest.raises(ArgumentError, match="stage is 'pretrian', did you mean 'pretrain'. Allowed: sft, pretrain"):
        choose("stage", "pretrian", {"sft": 1, "pretrain": 2})
    with pytest.raises(ArgumentError, match="^stage is 'xyz'") as caught:
        choose("stage", "xyz", {"sft": 1})
    assert "did you mean" not in str(caught.value)


@pytest.fixture
def fresh_logger():
    """The suite's logger as a new process finds it; afterwards as it was."""
    logger = logging.getLogger("paddle_sft")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.handlers.clear()
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


def test_rank_0_speaks_and_the_others_only_warn(fresh_logger, monkeypatch):
    monkeypatch.delenv("PADDLE_SFT_LOG_LEVEL", raising=False)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    assert get_logger().isEnabledFor(logging.INFO)
    get_logger().handlers.clear()
    monkeypatch.setenv("PADDLE_TRAINER_ID", "3")
    assert not get_logger().isEnabledFor(logging.INFO) and get_logger().isEnabledFor(logging.WARNING)


def test_asking_twice_for_the_logger_does_not_double_its_lines(fresh_logger):
    assert get_logger() is get_logger()
    assert [handler.name for handler in get_logger().handlers].count("paddle_sft") == 1


def test_the_level_comes_from_the_environment(fresh_logger, monkeypatch):
    monkeypatch.setenv("PADDLE_SFT_LOG_LEVEL", "debug")
    assert get_logger().isEnabledFor(logging.DEBUG)


def test_a_level_that_was_asked_for_holds_on_rank_0_and_never_makes_the_others_talk(fresh_logger, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    set_level("debug")
    assert get_logger().isEnabledFor(logging.DEBUG)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    set_level("debug")
    assert not get_logger().isEnabledFor(logging.INFO) and get_logger().isEnabledFor(logging.WARNING)
    set_level("error")
    assert not get_logger().isEnabledFor(logging.WARNING)


def test_ranks_are_what_the_launcher_said_and_one_without_it(monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINER_ID", raising=False)
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    assert (rank(), num_ranks()) == (0, 1)
    monkeypatch.setenv("PADDLE_TRAINER_ID", "2")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    assert (rank(), num_ranks()) == (2, 4)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores and ranks, its environment clean."""

    def make(cores, ranks=1, amd=False, **environment):
        for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "PADDLE_LOCAL_SIZE"):
            monkeypatch.setenv(name, "")  # so that monkeypatch puts back what was there
            monkeypatch.delenv(name)
        monkeypatch.setattr(threads, "num_cores", lambda: cores)
        monkeypatch.setattr(threads, "_is_amd", lambda: amd)
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(ranks))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return make


def test_one_process_takes_every_core_and_ranks_share_them(machine):
    machine(cores=8)
    assert settle_threads() == {"OMP_NUM_THREADS": "8"} and os.environ["OMP_NUM_THREADS"] == "8"
    machine(cores=8, ranks=4)
    assert settle_threads() == {"OMP_NUM_THREADS": "2"}
    machine(cores=2, ranks=4)
    assert settle_threads() == {"OMP_NUM_THREADS": "1"}


def test_only_ranks_of_this_machine_share_its_cores(machine):
    machine(cores=8, ranks=4, PADDLE_LOCAL_SIZE="2")
    assert ranks_here() == 2 and settle_threads() == {"OMP_NUM_THREADS": "4"}


def test_what_the_user_set_stays(machine):
    machine(cores=8, amd=True, OMP_NUM_THREADS="3", MKL_DEBUG_CPU_TYPE="1")
    assert settle_threads() == {}
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_DEBUG_CPU_TYPE"]) == ("3", "1")


def test_mkl_takes_its_fast_path_on_amd(machine):
    machine(cores=2, amd=True)
    assert settle_threads()["MKL_DEBUG_CPU_TYPE"] == "5"
    machine(cores=2, amd=False)
    assert "MKL_DEBUG_CPU_TYPE" not in settle_threads()


def test_there_is_a_core():
    assert 1 <= num_cores() <= (os.cpu_count() or 1)


def test_an_import_keeps_back_the_advice_about_threads_and_nothing_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "says_much.py").write_text(
        "import sys\nprint('set OMP_NUM_THREADS to 1', file=sys.stderr)\nprint('a real warning', file=sys.stderr)\n"
    )
    (tmp_path / "fails.py").write_text("import sys\nprint('why', file=sys.stderr)\nraise ImportError('libcuda')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import_quietly("says_much")
    assert capsys.readouterr().err == "a real warning\n"
    with pytest.raises(ImportError, match="libcuda"):
        import_quietly("fails")
    assert capsys.readouterr().err == "why\n"
