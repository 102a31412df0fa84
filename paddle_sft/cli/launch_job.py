"""Run Paddle's launcher, pass on what it says and the signals it should get, and find out how the ranks ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from paddle_sft.cli.entry import EXIT_TERMINATED
from paddle_sft.cli.launch_meeting import Failure, Meeting, killed
from paddle_sft.cli.launch_paddle import EXIT_NOT_READY

TAIL_LINES = 20
PATIENCE = 15.0
"""Seconds that ranks have to end by themselves when another machine failed; Paddle's launcher kills them 10 s later."""
ASKING = 8.0
"""Seconds to ask other machines whether the cause is theirs: a rank that lost another one exits 5 s later."""


class Plan(NamedTuple):
    """What will be run: the command, its environment, and what to tell the user about both."""

    command: List[str]
    environment: Dict[str, str]
    notes: List[str]


class FailedRank(NamedTuple):
    """The rank that Paddle's launcher saw fail first, by its number on this machine."""

    rank: int
    exit_code: int
    log: str


class Job:
    """Paddle's launcher while it runs. Its output is passed through; the last rank that failed first is kept."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(plan.command, env=plan.environment, stderr=subprocess.PIPE)
        self.failed: Optional[FailedRank] = None
        self.terminated = False
        self._timers: List[threading.Timer] = []

    def wait(self) -> int:
        """The launcher's return code."""
        with self._process as process:
            try:
                for line in process.stderr:
                    sys.stderr.buffer.write(line)
                    sys.stderr.buffer.flush()
                    self.failed = parse_failed_rank(line.decode(errors="replace")) or self.failed
            except KeyboardInterrupt:
                process.wait()  # the terminal sent it to the launcher too, which stops the ranks
                raise
            finally:
                for timer in self._timers:
                    timer.cancel()
        return process.returncode

    @property
    def was_stopped(self) -> bool:
        """Whether SIGTERM reached this process, or a rank, which tells all others."""
        return self.terminated or (self.failed is not None and self.failed.exit_code == EXIT_TERMINATED)

    def terminate(self) -> None:
        """Let the ranks save and exit."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, was_told: bool) -> None:
        """The same because of another machine. If that was told to stop, all save together; if it failed, this does not
        wait for ever: a rank may wait for one that is gone."""
        self.terminate()
        if was_told:
            return
        self._timers.append(threading.Timer(PATIENCE, self.terminate))
        self._timers[-1].daemon = True
        self._timers[-1].start()

    def on_sigterm(self, then: Callable[[], None]) -> Callable[[], None]:
        """From now on SIGTERM to this process goes to the ranks. Returns what undoes that."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None

        def received(*_: object) -> None:
            self.terminated = True
            then()
            self.terminate()

        before = signal.signal(signal.SIGTERM, received)
        return lambda: signal.signal(signal.SIGTERM, before)


def run_job(plan: Plan, meeting: Optional[Meeting] = None) -> int:
    """Run the job to its end and say what went wrong; returns the exit code."""
    job = Job(plan)
    undo = job.on_sigterm(lambda: meeting and meeting.say_state(state="stopping"))
    code = 1
    try:
        if meeting is not None:
            meeting.say_state(state="running")
            meeting.on_trouble(job.stop)
        returned = job.wait()
        code = _of_one_machine(job, returned) if meeting is None else _of_all_machines(job, returned, meeting)
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        undo()
        if meeting is not None:
            meeting.leave(code)
    return code


def _of_one_machine(job: Job, returned: int) -> int:
    if returned == 0:
        return 0
    if job.was_stopped:
        print(_STOPPED.format("by SIGTERM"), file=sys.stderr)
        return EXIT_TERMINATED
    if job.failed is None or returned == EXIT_NOT_READY:
        if returned == EXIT_NOT_READY:
            print(_NOT_READY, file=sys.stderr)
        return positive_exit_code(returned)
    print(failure_report(job.failed), file=sys.stderr)
    return positive_exit_code(job.failed.exit_code)


_STOPPED = "launch: stopped {}; the same command goes on from the last checkpoint"
_NOT_READY = (
    "launch: too few machines came, or came back, within the time of --elastic_timeout; the same command on each of "
    "them goes on from the last checkpoint"
)


def _of_all_machines(job: Job, returned: int, meeting: Meeting) -> int:
    if returned == 0:
        return 0
    reason = meeting.trouble()
    stopped = job.terminated or (job.was_stopped and not reason)
    if job.failed is not None and not reason and not stopped:
        mine = failure_of(job.failed, meeting)
        meeting.say_state(failure=mine)
        if not killed(mine.exit_code):
            meeting.look_again(ASKING)
    if stopped:
        print(_STOPPED.format("by SIGTERM"), file=sys.stderr)
        return EXIT_TERMINATED
    failures = meeting.failures()
    if failures:
        print(joint_report(failures, meeting.nodes.rank), file=sys.stderr)
        return positive_exit_code(failures[0].exit_code)
    if reason:
        print(_STOPPED.format(f"because {reason}"), file=sys.stderr)
        return EXIT_TERMINATED if meeting.was_told else 1
    return positive_exit_code(returned)


def failure_of(failed: FailedRank, meeting: Meeting) -> Failure:
    """By its number among all ranks, with its last lines, for the other machines to show."""
    return Failure(
        meeting.first_rank() + failed.rank,
        failed.exit_code,
        meeting.nodes.rank,
        os.path.abspath(failed.log),
        tuple(last_lines(failed.log)),
    )


def joint_report(failures: List[Failure], here: int) -> str:
    """The rank that failed first, as all machines see it, with its last lines; the others in a line each."""
    first = failures[0]
    where = "this machine" if first.machine == here else f"machine {first.machine}"
    head = f"launch: rank {first.rank} on {where} failed with exit code {first.exit_code}; the end of {first.log}:"
    rest = [
        f"launch: then rank {one.rank} on machine {one.machine} failed with exit code {one.exit_code} ({one.log} there)"
        for one in failures[1:]
    ]
    return "\n".join([head, *(f"  {line}" for line in first.lines), *rest])


def parse_failed_rank(line: str) -> Optional[FailedRank]:
    """Read the launcher's line 'Container rank 1 status failed cmd [...] code 7 log log/workerlog.1'."""
    match = re.match(r"Container rank (\d+) status failed cmd .* code (-?\d+) log (\S.*?)\s*$", line)
    return FailedRank(int(match.group(1)), int(match.group(2)), match.group(3)) if match else None


def last_lines(log: str) -> List[str]:
    """What a rank wrote at last."""
    try:
        return Path(log).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as error:
        return [f"(can't read the log: {error})"]


def failure_report(failed: FailedRank) -> str:
    """Which rank failed, how, and the last lines it wrote."""
    head = f"launch: rank {failed.rank} failed with exit code {failed.exit_code}; the end of {failed.log}:"
    return "\n".join([head, *(f"  {line}" for line in last_lines(failed.log))])


def positive_exit_code(code: int) -> int:
    """A process killed by signal n has code -n, which a shell shows as 128 + n."""
    return 128 - code if code < 0 else code
