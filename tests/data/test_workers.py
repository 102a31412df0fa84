from __future__ import annotations

import os

import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.data.workers import map_in_chunks


def test_several_processes_give_what_one_gives_in_the_same_order():
    items = list(range(1000))
    parent = os.getpid()

    def work(chunk):
        return [(item * item, os.getpid() == parent) for item in chunk]

    alone = map_in_chunks(work, items, chunk_size=64)
    shared = map_in_chunks(work, items, num_workers=2, chunk_size=64)
    assert [value for value, _ in shared] == [value for value, _ in alone] == [item * item for item in items]
    assert all(here for _, here in alone) and not any(here for _, here in shared)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_the_work_comes_out_as_it_is(num_workers):
    def work(chunk):
        if 70 in chunk:
            raise DataError("row 70 is bad")
        return list(chunk)

    with pytest.raises(DataError, match="row 70 is bad"):
        map_in_chunks(work, list(range(100)), num_workers=num_workers, chunk_size=10)


def test_a_killed_worker_is_an_error_and_not_an_endless_wait():
    def work(chunk):
        os._exit(9)

    with pytest.raises(DataError, match="killed.*lower preprocessing_num_workers"):
        map_in_chunks(work, list(range(100)), num_workers=2, chunk_size=10)
