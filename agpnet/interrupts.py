"""Ctrl-C between two steps, never inside one: half a step cannot be gone on from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until it is asked for.

    The second one is not held back: who presses twice means at once. Outside the main thread, where Python gives no
    signals, nothing is changed.

    Yields:
        A function to call where an interrupt is welcome: it raises KeyboardInterrupt if one came.
    """
    pending: list[int] = []

    def check() -> None:
        if pending:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    def hold(number: int, frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(number)

    # A signal that is ignored (a job in the background) stays so.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    held = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in held:
        signal.signal(number, hold)
    try:
        yield check
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
