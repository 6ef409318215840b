"""The same work on many tasks, a few processes at a time, with nothing left behind when it is cut short."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from agp_edge.errors import AgpEdgeError, WorkStoppedError

T = TypeVar("T")
R = TypeVar("R")


def run_each(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> Iterator[tuple[int, R]]:
    """Do the work on every task, and give (index of the task, answer) as each is done.

    With one job it is done here, one task after the other. With more, each job is a fresh process (spawn, since torch
    does not survive a fork), and work, tasks and answers go through pipes. Close the iterator to end them all, as
    `contextlib.closing` does: whatever ends it, an interrupt too, no process outlives it.

    Raises:
        AgpEdgeError: of the work; in a process any other error becomes a RuntimeError with its traceback.
        WorkStoppedError: a process ended without an answer, as one does that the system kills for want of memory.
    """
    if min(jobs, len(tasks)) <= 1:
        yield from ((index, work(task)) for index, task in enumerate(tasks))
        return
    workers = []
    try:
        workers = [_Worker(work) for _ in range(min(jobs, len(tasks)))]
        waiting = iter(enumerate(tasks))
        busy = {}
        for worker, (index, task) in zip(workers, waiting, strict=False):
            worker.send(index, task)
            busy[worker.pipe] = worker
        while busy:
            for ready in connection.wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                answer = worker.receive()
                following = next(waiting, None)
                if following is None:
                    del busy[worker.pipe]
                else:
                    worker.send(*following)
                yield answer
    finally:
        for worker in workers:
            worker.stop()


class _Worker(Generic[T, R]):
    """A process that does one task at a time; it is owned by who made it, and ends with `stop`."""

    def __init__(self, work: Callable[[T], R]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._index = -1
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        # Ctrl-C goes to every process of the terminal. The child inherits the mask: it is stopped by its owner, in order.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def send(self, index: int, task: T) -> None:
        self._index = index
        # A process that died is noticed where its answer is missed.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(task)

    def receive(self) -> tuple[int, R]:
        try:
            good, answer = self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise WorkStoppedError(
                f"a process ended without an answer, with exit code {self._process.exitcode}",
                "if the memory ran out (code -9), take fewer --jobs",
            ) from error
        if not good:
            raise answer
        return self._index, answer

    def stop(self) -> None:
        self.pipe.close()
        # SIGTERM would be taken for a Ctrl-C that a training answers with a last checkpoint, which nobody will read.
        self._process.kill()
        self._process.join()


def _serve(pipe: Any, work: Callable[[Any], Any]) -> None:
    """What a process does: tasks in, answers out, until there are no more or its owner is gone."""
    threading.Thread(target=_end_with_the_owner, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            task = pipe.recv()
            try:
                answer: tuple[bool, Any] = True, work(task)
            except AgpEdgeError as error:
                answer = False, error
            except Exception as error:
                # Not every foreign error survives being pickled; its traceback as text does.
                answer = False, RuntimeError("".join(traceback.format_exception(error)))
            pipe.send(answer)


def _end_with_the_owner() -> None:
    """An owner that was killed cannot stop anybody: its processes see that it is gone."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        owner.join()
        os._exit(1)
