from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.data.workers import WorkerPool, in_turn, map_in_order


def square(number):
    return number * number, os.getpid()


def test_several_processes_give_what_one_gives_in_the_same_order():
    alone, shared = (list(map_in_order(square, range(50), num_workers)) for num_workers in (1, 3))
    assert [value for value, _ in shared] == [value for value, _ in alone] == [number**2 for number in range(50)]
    assert {pid for _, pid in alone} == {os.getpid()}
    assert os.getpid() not in {pid for _, pid in shared}


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 5])
def test_more_workers_than_chunks_do_no_harm(num_chunks):
    assert [value for value, _ in map_in_order(square, range(num_chunks), 4)] == [n * n for n in range(num_chunks)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_the_work_comes_out_as_it_is(num_workers):
    def work(number):
        if number == 7:
            raise DataError("row 70 is bad")
        return number

    with pytest.raises(DataError, match="row 70 is bad"):
        list(map_in_order(work, range(10), num_workers))


def test_an_error_that_can_not_be_pickled_is_said_with_the_place_where_it_was_raised():
    class Odd(Exception):
        pass

    def work(number):
        raise Odd("an odd one")

    with pytest.raises(RuntimeError, match="Odd: an odd one") as error:
        list(map_in_order(work, range(3), 2))
    assert "test_workers.py" in str(error.value.__cause__)


def test_a_killed_worker_is_named_and_not_waited_for():
    def work(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(DataError, match=r"killed \(SIGKILL\) while it read 3.*lower preprocessing_num_workers"):
        list(map_in_order(work, range(20), 2))


def test_streams_share_the_workers_and_one_may_be_left_early():
    with WorkerPool([square, str], 2) as pool:
        first, second = in_turn(pool, range(100), 3), in_turn(pool, range(100), 5, work=1)
        for number in range(30):
            assert next(first)[0] == number**2 and next(second) == str(number)
        first.close()
        assert list(second) == [str(number) for number in range(30, 100)]
        while any(worker.under_way for worker in pool._workers):
            time.sleep(0.01)
        assert not pool._done, "results that nobody will ask for are kept"


def test_large_chunks_and_large_results_do_not_lock_each_other():
    """Both are far larger than a pipe holds."""
    size = 1 << 21
    chunks = (bytes([number]) * size for number in range(8))
    assert [found[:1] for found in map_in_order(lambda chunk: chunk * 2, chunks, 2)] == [bytes([n]) for n in range(8)]


def test_workers_end_when_the_process_that_asks_is_killed():
    code = (
        "import os, signal, sys\n"
        "from paddle_sft.data.workers import WorkerPool\n"
        "pools = [WorkerPool([abs], 2), WorkerPool([abs], 1)]\n"  # the later ones must not hold the earlier ones' pipes
        "print(*[w.process.pid for pool in pools for w in pool._workers], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 3 and done.returncode == -signal.SIGKILL
    until = time.time() + 20
    while any(is_running(pid) for pid in workers) and time.time() < until:
        time.sleep(0.02)
    assert not [pid for pid in workers if is_running(pid)]


def is_running(pid):
    """Not gone, and not a zombie that nobody has buried."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
