"""Processes that do the same work on many chunks, each result in its turn.

They are forked, so the work (a tokenizer, say) is inherited and never pickled; chunks and results are. A thread of
this process hands out chunks and takes results, so that workers go on while a training step is computed; how far they
get ahead is what `in_turn` is told. When the process dies, however it does, the workers' pipes close and they end.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import threading
import traceback
from collections import deque
from multiprocessing.connection import Connection
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from paddle_sft.core.errors import ArgumentError, DataError

_CHUNKS_EACH = 2
"""Of a worker: one to work on, and one that is there when it is done."""

_open_ends: List[Connection] = []
"""This process's ends of all pipes to workers. A worker closes its copies of them, or no pipe would ever close."""


class _Worker:
    def __init__(self, context: Any, works: Sequence[Callable]) -> None:
        self.connection, theirs = context.Pipe()
        _open_ends.append(self.connection)
        self.process = context.Process(target=_serve, args=(theirs, works), daemon=True)
        self.process.start()
        theirs.close()
        self.under_way: Deque[Tuple[int, Any]] = deque()
        """(ticket, chunk): the one it works on, and the one that it takes next."""


class WorkerPool:
    """`num_workers` processes that know the functions `works`.

    A result is asked for by its ticket; there may be several streams of chunks at once.

    Raises:
        ArgumentError: this system can't fork.
    """

    def __init__(self, works: Sequence[Callable[[Any], Any]], num_workers: int) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ArgumentError(
                f"preprocessing_num_workers is {num_workers}, and this system can't fork processes; set it to 1"
            )
        context = multiprocessing.get_context("fork")
        self._tickets = itertools.count()
        self._waiting: Deque[Tuple[int, int, Any]] = deque()
        self._done: Dict[int, Tuple[bool, Any]] = {}
        self._dropped: Set[int] = set()
        self._failure: Optional[DataError] = None
        self._is_closed = False
        self._workers = [_Worker(context, works) for _ in range(num_workers)]
        self._changed = threading.Condition()
        """Guards all of the above."""
        self._bell, self._ringer = context.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="data workers", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def submit(self, chunk: Any, work: int = 0) -> int:
        """Give a chunk to the first worker that is free; its ticket. `work` is an index into `works`."""
        ticket = next(self._tickets)
        with self._changed:
            self._waiting.append((ticket, work, chunk))
        self._ringer.send_bytes(b"!")
        return ticket

    def result(self, ticket: int) -> Any:
        """Wait for a result.

        Raises:
            DataError: a worker process was killed.
            Whatever the work raised.
        """
        with self._changed:
            while ticket not in self._done:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait()
            is_good, value = self._done.pop(ticket)
        if not is_good:
            error, said = value
            raise error from RuntimeError(f"in a preprocessing worker:\n{said}")
        return value

    def drop(self, ticket: int) -> None:
        """The result is not wanted any more."""
        with self._changed:
            self._waiting = deque(one for one in self._waiting if one[0] != ticket)
            self._done.pop(ticket, None)
            if any(ticket == given for worker in self._workers for given, _ in worker.under_way):
                self._dropped.add(ticket)

    def close(self) -> None:
        """End the processes, also in the middle of their work."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
        self._ringer.send_bytes(b"!")
        for worker in self._workers:
            worker.process.terminate()
        self._thread.join()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
            _open_ends.remove(worker.connection)
        self._bell.close()
        self._ringer.close()

    def _run(self) -> None:
        """The thread: as long as the pool is open and every worker lives."""
        while self._failure is None:
            busy = self._hand_out()
            for connection in multiprocessing.connection.wait([self._bell, *busy]):
                if connection is self._bell:
                    connection.recv_bytes()
                else:
                    self._take(busy[connection])
            if self._is_closed:
                return

    def _hand_out(self) -> Dict[Connection, _Worker]:
        """Give out chunks, to each worker one and then another, so that it never waits; the workers that have some."""
        with self._changed:
            for has in range(_CHUNKS_EACH):
                for worker in self._workers:
                    if len(worker.under_way) == has and self._waiting:
                        self._give(worker)
            return {worker.connection: worker for worker in self._workers if worker.under_way}

    def _give(self, worker: _Worker) -> None:
        ticket, work, chunk = self._waiting.popleft()
        worker.under_way.append((ticket, chunk))
        with contextlib.suppress(OSError):  # it died; taking its result will tell
            worker.connection.send((work, chunk))

    def _take(self, worker: _Worker) -> None:
        try:
            found, failure = worker.connection.recv(), None
        except (EOFError, OSError):
            found, failure = None, _killed(worker)
        with self._changed:
            self._failure = failure
            ticket, _ = worker.under_way.popleft()
            if failure is None and ticket not in self._dropped:
                self._done[ticket] = found
            self._dropped.discard(ticket)
            self._changed.notify_all()


def _killed(worker: _Worker) -> DataError:
    worker.process.join(timeout=10)
    code = worker.process.exitcode
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    chunk = worker.under_way[0][1]
    return DataError(
        f"a preprocessing worker process was killed ({name}) while it read {chunk}, most often for lack of memory; "
        "lower preprocessing_num_workers, or free memory"
    )


def _serve(connection: Connection, works: Sequence[Callable]) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # paddle's own would print a stack
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    for end in _open_ends:
        end.close()
    _open_ends.clear()
    gc.freeze()  # looking through what the parent has would copy its memory page by page
    gc.set_threshold(100_000)  # a chunk makes thousands of lists and no cycles
    given: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, given), daemon=True).start()
    while True:
        work, chunk = given.get()
        try:
            found = True, works[work](chunk)
        except BaseException as error:  # whatever it is belongs to the parent
            found = False, _sendable(error)
        try:
            connection.send(found)
        except (BrokenPipeError, OSError):
            os._exit(0)


def _receive(connection: Connection, given: queue.SimpleQueue) -> None:
    """A worker's thread: takes chunks out of the pipe at once, so that the parent's send never waits for a result that
    the worker can't send because the parent sends. Ends the worker when the parent is gone."""
    while True:
        try:
            given.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)


def _sendable(error: BaseException) -> Tuple[BaseException, str]:
    """The error, or one that says the same where it can't be pickled, and where it was raised."""
    said = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error's own code may do anything
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, said


def map_in_order(work: Callable[[Any], Any], chunks: Iterable[Any], num_workers: int) -> Iterator[Any]:
    """Results of `work` on chunks, in order; with one worker, or one chunk, in this process."""
    chunks = iter(chunks)
    first = list(itertools.islice(chunks, 2 if num_workers > 1 else 0))
    if len(first) < 2:
        yield from map(work, itertools.chain(first, chunks))
        return
    with WorkerPool([work], num_workers) as pool:
        # one more than is given out: a slow chunk holds up the results behind it, and not the workers
        yield from in_turn(pool, itertools.chain(first, chunks), (_CHUNKS_EACH + 1) * num_workers)


def in_turn(pool: WorkerPool, chunks: Iterable[Any], num_ahead: int, work: int = 0) -> Iterator[Any]:
    """Results of a stream of chunks in its order; `num_ahead` chunks are under way or wait to be asked for."""
    under_way: Deque[int] = deque()
    chunks = iter(chunks)
    try:
        while True:
            for chunk in itertools.islice(chunks, num_ahead - len(under_way)):
                under_way.append(pool.submit(chunk, work))
            if not under_way:
                return
            yield pool.result(under_way.popleft())
    finally:
        for ticket in under_way:
            pool.drop(ticket)
