"""Who holds a run up, and when a run stands still: rules over beats, with a clock and ranks that are made up."""

from __future__ import annotations

import threading

import pytest

from paddle_sft.train.heartbeats import Beat, Radio
from paddle_sft.train.watchdog import EXIT_HUNG, FIRST_STEP, Watchdog, report, who_is_stuck

LIMIT = 100.0


class Others:
    """In the place of Radio: what other ranks say is put in."""

    def __init__(self, *others):
        self.others, self.sent, self.coming = others, [], []

    def send(self, beat):
        self.sent.append(beat)

    def heard(self):
        found, self.coming = self.coming, []
        return found

    def about(self, rank):
        return [f"the end of the log of rank {rank}"]

    def close(self):
        pass


class Bench:
    """A watchdog of rank 0 without a thread; time goes by only here."""

    def __init__(self, monkeypatch):
        self.others, self.codes = Others(), []
        self.dog = Watchdog(LIMIT, 0, self.others, self.codes.append)
        self.dog._is_on = True
        monkeypatch.setattr("paddle_sft.train.watchdog.time.sleep", lambda seconds: None)
        monkeypatch.setattr(self.dog, "_leave_a_word", lambda: None)

    def wait(self, seconds, *beats):
        self.dog._now += seconds
        self.others.coming += beats
        self.dog.look()
        return self.codes

    def train(self, *steps):
        for step in steps:
            self.dog.mark(step, "computing")


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_a_run_that_goes_on_is_left_alone(bench):
    bench.train(1, 2)
    for step in range(3, 9):
        assert bench.wait(0.9 * LIMIT) == []
        bench.train(step)


def test_a_rank_that_does_not_go_on_ends_with_its_stack_and_its_own_number(bench, capfd):
    bench.train(1, 2, 3)
    assert bench.wait(LIMIT + 1) == [EXIT_HUNG]
    said = capfd.readouterr().err
    assert "the run stands still: rank 0 makes no progress" in said
    assert "step 3, computing; no progress for 101 s" in said
    assert "Python stack of rank 0" in said
    assert "test_a_rank_that_does_not_go_on" in said


def test_the_first_step_may_take_longer_and_so_may_the_evaluation_behind_it(bench):
    bench.train(5)
    assert bench.wait(LIMIT * FIRST_STEP - 1) == []
    bench.dog.mark(5, "evaluating")
    assert bench.wait(LIMIT * FIRST_STEP - 1) == []
    bench.train(6)
    assert bench.wait(LIMIT + 1) == [EXIT_HUNG]


def test_saving_may_take_as_long_as_it_likes_on_this_rank_and_on_another(bench):
    bench.train(1, 2)
    with bench.dog.pause("saving"):
        assert bench.wait(50 * LIMIT) == []
    assert bench.wait(LIMIT - 1) == []
    bench.dog.mark(2, "computing")
    assert bench.wait(50 * LIMIT, Beat(1, 2, "saving", seconds=50 * LIMIT, is_long=True)) == []


def test_the_clock_starts_anew_behind_a_save(bench):
    bench.train(1, 2)
    with bench.dog.pause("saving"):
        bench.wait(2 * LIMIT)
    assert bench.wait(LIMIT + 1) == [EXIT_HUNG]


def test_while_another_rank_goes_on_this_one_waits(bench):
    bench.train(1, 2)
    for step in range(20):
        assert bench.wait(0.5 * LIMIT, Beat(1, 2, "evaluating", order=step, seconds=1.0)) == []


def test_a_rank_that_falls_silent_is_named_even_inside_a_save(bench, capfd):
    bench.train(1, 2)
    bench.wait(1.0, Beat(1, 2, "saving", is_long=True))
    with bench.dog.pause("saving"):
        assert bench.wait(LIMIT + 1) == [EXIT_HUNG]
    said = capfd.readouterr().err
    assert "rank 1 no longer answers" in said
    assert "rank 1: silent for 101 s; before that: step 2, saving" in said
    assert "the end of the log of rank 1" in said


def test_a_rank_that_was_never_heard_is_named_too(monkeypatch, capfd):
    codes = []
    dog = Watchdog(LIMIT, 0, Others(1), codes.append)
    dog._is_on = True
    monkeypatch.setattr("paddle_sft.train.watchdog.time.sleep", lambda seconds: None)
    monkeypatch.setattr(dog, "_leave_a_word", lambda: None)
    with dog.pause("saving"):
        dog._now += LIMIT * FIRST_STEP - 1  # as long as the first step may take
        dog.look()
        assert codes == []
        dog._now += 2
        dog.look()
    assert codes == [EXIT_HUNG]
    assert "rank 1 no longer answers" in capfd.readouterr().err


def test_a_rank_that_gives_way_is_heard_all_the_while(bench, monkeypatch):
    """Else the one that is stuck would take it for the cause, if it comes to see that the run stands still later."""
    slept = []
    monkeypatch.setattr("paddle_sft.train.watchdog.time.sleep", lambda seconds: slept.append(len(bench.others.sent)))
    bench.train(1, 2, 3)
    assert bench.wait(LIMIT + 1, Beat(1, 2, "computing", seconds=LIMIT + 1)) == [EXIT_HUNG]
    assert len(slept) * bench.dog._interval >= 4 * bench.dog._interval
    assert slept == list(range(slept[0], slept[0] + len(slept)))


def test_with_a_short_limit_a_rank_that_is_late_by_a_second_is_not_silent(monkeypatch, capfd):
    codes = []
    dog = Watchdog(5.0, 0, Others(1), codes.append)
    dog._is_on = True
    monkeypatch.setattr(dog, "_leave_a_word", lambda: None)
    for step in (8, 9):
        dog.mark(step, "computing")
    dog._others[1], dog._heard[1], dog._now = Beat(1, 9, "computing", seconds=5.5, waits=True), 8.5, 10.0
    dog.look()
    assert codes == [EXIT_HUNG]
    assert "rank 0 makes no progress" in capfd.readouterr().err


def test_a_rank_that_has_said_goodbye_is_not_missed(bench):
    bench.train(1, 2)
    bench.wait(1.0, Beat(1, 2, "done", is_done=True))
    with bench.dog.pause("saving"):
        assert bench.wait(10 * LIMIT) == []


def test_a_job_that_was_stopped_and_goes_on_is_not_late():
    """Its thread slept too; only what it was awake counts."""
    dog = Watchdog(LIMIT, 0, Others(), lambda code: None)
    times = iter([0.0, 5.0, 5000.0])
    waits = iter([False, False, True])
    dog._done = type("Event", (), {"wait": lambda self, seconds: next(waits)})()
    dog.look = lambda: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddle_sft.train.watchdog.time.monotonic", lambda: next(times))
        dog._watch()
    assert dog._now <= 5.0 + 2 * dog._interval


def test_zero_starts_no_thread_and_never_ends_anything():
    before = threading.active_count()
    with Watchdog(0, 0, Radio(0, None), pytest.fail) as dog:
        dog.mark(1, "computing")
        assert threading.active_count() == before


def test_the_thread_sees_a_main_thread_that_stands_still():
    ended = threading.Event()
    codes = []
    with Watchdog(0.2, 0, Radio(0, None), lambda code: (codes.append(code), ended.set())) as dog:
        dog.mark(1, "computing")
        dog.mark(2, "computing")
        assert ended.wait(60)
    assert codes[0] == EXIT_HUNG


@pytest.mark.parametrize(
    "beats, silent, stuck",
    [
        ({0: Beat(0, 5, "", 9, waits=True), 1: Beat(1, 5, "", 9)}, {}, [1]),
        ({0: Beat(0, 5, "", 9), 1: Beat(1, 4, "", 8)}, {}, [1]),
        ({0: Beat(0, 4, "", 8, waits=True), 1: Beat(1, 5, "", 9)}, {}, [1]),
        ({0: Beat(0, 5, "", 9, waits=True), 1: Beat(1, 5, "", 9, waits=True)}, {}, [0, 1]),
        ({0: Beat(0, 5, "", 9), 1: Beat(1, 6, "", 9), 2: Beat(2, 6, "", 9)}, {2: 30.0}, [2]),
        ({0: Beat(0, 5, "", 9, waits=True), 1: Beat(1, 1, "", 1, is_done=True)}, {}, [0]),
    ],
    ids=["who computes, not who waits", "who is behind", "waiting counts more", "all wait", "silence", "not the done"],
)
def test_who_is_stuck(beats, silent, stuck):
    assert who_is_stuck(beats, silent) == stuck


def test_the_report_has_a_line_for_every_rank():
    beats = {0: Beat(0, 5, "computing", waits=True, seconds=70, place="a.py:3 f"), 1: Beat(1, 5, "reading data")}
    lines = report([1], beats, {1: 66.0}).splitlines()
    assert lines[1] == "  rank 0: step 5, computing; waits for other ranks, no progress for 70 s; at a.py:3 f"
    assert lines[2].startswith("  rank 1: silent for 66 s; before that: step 5, reading data")


def test_a_rank_in_a_collective_says_that_it_waits():
    """The innermost frame decides; a function compiled under the name of Paddle's file stands for one of it."""
    found = {}
    space = {"look": lambda: found.update(beat=dog.beat())}
    dog = Watchdog(LIMIT, 0, Others())
    caller = "import sys\ndef wait():\n    return sys._getframe()\n"
    exec(compile(caller, "x/paddle/distributed/communication/all_reduce.py", "exec"), space)  # noqa: S102
    frame = space["wait"]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddle_sft.train.watchdog.sys._current_frames", lambda: {dog._main: frame})
        assert dog.beat().waits
        assert "all_reduce.py" in dog.beat().place
    assert not dog.beat().waits


def test_datagrams_of_strangers_are_not_beats():
    import socket

    radio = Radio(0, None)
    radio._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    radio._socket.bind(("127.0.0.1", 0))
    radio._socket.setblocking(False)
    here = radio._socket.getsockname()
    radio._token, radio._addresses = "ours", {1: here}  # what it sends comes back to it
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for content in (b"\xff\x00", b"[1]", b'{"rank": 1, "step": 2, "phase": "", "token": "theirs"}'):
        sender.sendto(content, here)
    radio.send(Beat(1, 7, "computing"))
    assert radio.heard() == [Beat(1, 7, "computing")]
    radio.close()
    sender.close()
