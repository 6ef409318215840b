"""Progress and interrupts without TensorRT; with it they are tested in `test_tensorrt.py`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from agp_edge.engines import tensorrt_callbacks as callbacks
from agp_edge.engines.tensorrt_callbacks import BuildMonitor, ErrorLog, deferred_signals


@pytest.fixture
def sigterm_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_phase_counts_for_the_step_that_holds_it() -> None:
    heard: list[tuple[int, str]] = []
    monitor = BuildMonitor(lambda done, total, note="": heard.append((done, note)))
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0)
    monitor.phase_start("timing", "build", 4)
    assert monitor.step_complete("timing", 0)
    monitor.phase_finish("timing")
    monitor.phase_start("reformats", "build", 10)
    assert monitor.step_complete("nobody", 3)
    assert heard == [(0, "build"), (50, "build"), (50, "timing"), (62, "timing"), (62, "reformats")]


def test_a_cancelled_build_hears_no_more() -> None:
    heard: list[int] = []
    monitor = BuildMonitor(lambda done, total, note="": heard.append(done))
    monitor.phase_start("build", None, 2)
    monitor.cancelled.set()
    assert not monitor.step_complete("build", 0)
    assert heard == [0]


def test_a_signal_is_delivered_when_the_block_ends() -> None:
    cancelled = threading.Event()
    reached_the_end = False

    def work() -> None:
        nonlocal reached_the_end
        with deferred_signals(cancelled):
            signal.raise_signal(signal.SIGINT)
            reached_the_end = True

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached_the_end
    assert cancelled.is_set()


@pytest.mark.usefixtures("sigterm_ignored")
def test_an_ignored_signal_stays_ignored() -> None:
    cancelled = threading.Event()
    with deferred_signals(cancelled):
        signal.raise_signal(signal.SIGTERM)
    assert not cancelled.is_set()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_off_the_main_thread_nothing_is_touched() -> None:
    seen: list[object] = []

    def work() -> None:
        with deferred_signals(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_the_first_logger_outlives_its_build() -> None:
    """TensorRT keeps a bare pointer to it for as long as the process lives."""
    import gc

    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    ErrorLog(trt)
    gc.collect()
    kept = callbacks._REGISTERED[trt.ILogger]
    ErrorLog(trt)
    gc.collect()
    assert callbacks._REGISTERED[trt.ILogger] is kept
    assert isinstance(kept, trt.ILogger)
