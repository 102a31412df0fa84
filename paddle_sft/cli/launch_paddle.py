"""Paddle's launcher as `paddle-sft launch` starts it, in a process of its own, with what paddlepaddle 3.3.1 lacks:

- the address that ranks publish is the one by which this machine reaches the others; Paddle takes what the name of the
  machine means, which Debian's /etc/hosts says is 127.0.1.1;
- SIGTERM goes to the ranks, and the launcher waits for them to save; Paddle's own kills them 30 s later;
- the rank that failed first is named; Paddle's own looks once a second, and names the one with the smallest number of
  those that have failed by then;
- ranks listen at ports that no connection takes by itself meanwhile, unless PORT_RANGE says otherwise;
- etcd mode: etcd3 0.12, the client that it imports, was written for protobuf 3, and reads itself in protobuf's slow
  mode only; it is switched on while etcd3 is imported, not for the ranks. Machines that never come are a failure, where
  Paddle ends with 0. A mistake of the user is not tried again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, List

from paddle_sft.cli.entry import EXIT_USER_ERROR
from paddle_sft.cli.launch_meeting import killed
from paddle_sft.core.parent import die_with_parent

_SLOW = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
SAME_SIGNAL = 5.0
"""Seconds in which a second SIGTERM is the first: who stops a job signals all its processes, and each passes it on."""
PORTS = "10000:19999"
"""Outside of those from which connections take theirs (Linux: 32768 to 60999), and of the groups' stores."""
LOOK_EVERY = 0.1
"""Seconds; ranks that only lost another one exit 5 s later (parallel.lost)."""
LAST_WORDS = 1.0
"""Seconds that the other ranks have to end by themselves, before they are told to: all may have met the same."""
EXIT_NOT_READY = 75
"""sysexits.h: a temporary failure; machines did not come, or too many restarts."""


def main() -> None:
    """sys.argv: the address of this machine or "", then the arguments of paddle.distributed.launch."""
    die_with_parent()
    address = sys.argv.pop(1)
    os.environ.setdefault("PORT_RANGE", PORTS)
    if any(argument.startswith("etcd://") for argument in sys.argv):
        _import_etcd3()
    from paddle.distributed.launch.context.node import Node
    from paddle.distributed.launch.controllers.collective import CollectiveElasticController
    from paddle.distributed.launch.controllers.controller import ControllerBase
    from paddle.distributed.launch.job.pod import Pod
    from paddle.distributed.launch.main import launch

    if address:
        Node.get_host_ip = lambda self: address
    Pod.watch = _look_often(Pod.watch)
    Pod.failed_container = _first_failed(Pod.failed_container)
    ControllerBase.signal_handler = _pass_on(ControllerBase.signal_handler)
    CollectiveElasticController.finalize = _count_unfinished(CollectiveElasticController.finalize)
    CollectiveElasticController.watch = _end_at_mistakes(CollectiveElasticController.watch)
    launch()


def _import_etcd3() -> None:
    before = os.environ.get(_SLOW)
    os.environ[_SLOW] = "python"
    import etcd3  # noqa: F401

    os.environ.pop(_SLOW)
    if before is not None:
        os.environ[_SLOW] = before


def _look_often(original: Any) -> Any:
    def watch(self: Any, *rest: Any, **options: Any) -> Any:
        status = original(self, *rest, **{**options, "interval": LOOK_EVERY})
        if status == "failed":
            self.seen_first = [one for one in self.containers if one.status == "failed"]
            end = time.monotonic() + LAST_WORDS
            while time.monotonic() < end and any(one.status == "running" for one in self.containers):
                time.sleep(LOOK_EVERY)
        return status

    return watch


def _first_failed(original: Any) -> Any:
    """A rank that was killed is the cause of what others meet."""

    def failed_container(self: Any) -> List[Any]:
        first = getattr(self, "seen_first", [])
        return sorted(original(self), key=lambda one: (one not in first, not killed(one.exit_code)))

    return failed_container


def _pass_on(original: Any) -> Any:
    """The first SIGTERM is for the ranks, which save and exit; a later one ends them in 10 s; Ctrl-C is Paddle's."""

    def signal_handler(self: Any, number: int, frame: Any) -> None:
        running = [one for one in self.pod.containers if one.status == "running"]
        passed_on = getattr(self, "passed_on", None)
        if number != signal.SIGTERM or not running:
            original(self, number, frame)
            return
        if passed_on is not None:
            if time.monotonic() - passed_on > SAME_SIGNAL:
                self.sigint = number  # as if Paddle's own had seen the first: "Force quit in 10 seconds"
                original(self, number, frame)
            return
        self.passed_on = time.monotonic()
        self.ctx.args.elastic_level = -1  # a job that was told to stop does not start again
        for container in running:
            try:
                os.kill(container._proc._proc.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue  # it ended by itself

    return signal_handler


def _count_unfinished(original: Any) -> Any:
    """Paddle's exit code is that of the ranks, of which there may be none."""

    def finalize(self: Any, exit: bool = True) -> None:
        containers = self.pod.containers
        if not containers or any(one.exit_code is None for one in containers):
            self.pod.stop(timeout=10)
            self.master.stop()
            sys.exit(EXIT_NOT_READY)
        original(self, exit)

    return finalize


def _end_at_mistakes(original: Any) -> Any:
    """A rank that refused the user's input would do so again."""

    def watch(self: Any) -> bool:
        over = original(self)
        return over or any(one.exit_code == EXIT_USER_ERROR for one in self.pod.containers)

    return watch
