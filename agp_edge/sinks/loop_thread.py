"""An asyncio loop in a thread of its own, for servers whose libraries are asynchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from agp_edge.errors import WorkStoppedError

T = TypeVar("T")
CLOSE_S = 2.0


class LoopThread:
    """Runs coroutines that other threads bring; ends with `close`.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine there, and wait for what it gives.

        Raises:
            WorkStoppedError: it takes longer, or the loop has ended.
        """
        if not self._thread.is_alive() or self._loop.is_closed():
            coroutine.close()
            raise WorkStoppedError(f"{self._name} has ended", "start the stream again")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise WorkStoppedError(
                f"{self._name} took longer than {timeout_s:g} s", "see what else this machine does"
            ) from None

    def close(self) -> None:
        """Cancel what runs and end the thread; safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            # Each in its own way: one that does not end when it is told to keeps nobody from ending.
            self._loop.run_until_complete(
                asyncio.wait(tasks, timeout=CLOSE_S / 2) if tasks else asyncio.sleep(0)
            )
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
