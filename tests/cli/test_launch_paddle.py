"""What is put in the place of parts of Paddle's launcher: which rank it takes for the one that failed first."""

from __future__ import annotations

import pytest
from paddle.distributed.launch.job.pod import Pod

from paddle_sft.cli import launch_paddle


class Rank:
    """Ends with `code` when it was looked at so often; None: it runs on."""

    def __init__(self, code=None, looks=0):
        self._code, self._looks = code, looks
        self.exit_code = None

    @property
    def status(self):
        self._looks -= 1
        if self.exit_code is None and self._looks < 0:
            self.exit_code = self._code
        return {None: "running", 0: "completed"}.get(self.exit_code, "failed")


@pytest.fixture
def slept(monkeypatch):
    """Seconds that it slept; time goes by only so."""
    slept = []
    monkeypatch.setattr(Pod, "watch", launch_paddle._look_often(Pod.watch))
    monkeypatch.setattr(Pod, "failed_container", launch_paddle._first_failed(Pod.failed_container))
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr(launch_paddle.time, "monotonic", lambda: sum(slept))
    return slept


def pod_of(*ranks):
    pod = Pod()
    for rank in ranks:
        pod.add_container(rank)
    return pod


def test_the_rank_that_failed_first_is_named_though_another_with_a_smaller_number_fails_soon_after(slept):
    pod = pod_of(Rank(1, looks=10), Rank(7, looks=4))
    assert pod.watch() == "failed"
    assert [one.rank for one in pod.failed_container()] == [1, 0]
    assert set(slept) == {launch_paddle.LOOK_EVERY}


def test_of_ranks_that_are_seen_to_have_failed_together_the_killed_one_is_the_cause(slept):
    pod = pod_of(Rank(1), Rank(0), Rank(-9))
    assert pod.watch() == "failed"
    assert [one.rank for one in pod.failed_container()] == [2, 0]


def test_the_others_have_a_moment_to_end_by_themselves_and_no_more(slept):
    pod = pod_of(Rank(), Rank(2))
    pod.watch()
    assert launch_paddle.LAST_WORDS <= sum(slept) < launch_paddle.LAST_WORDS + 3 * launch_paddle.LOOK_EVERY
    assert [one.rank for one in pod.failed_container()] == [1]


def test_ranks_that_end_well_are_not_waited_for(slept):
    assert pod_of(Rank(0), Rank(0)).watch() == "completed" and not slept
