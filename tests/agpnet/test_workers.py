"""Processes that share out work. The work is of the standard library, since a fresh process must find it by name."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from contextlib import closing
from typing import Any, cast

import pytest

from agp_edge.errors import InputError, WorkStoppedError
from agpnet.workers import run_each


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_answered_once(jobs: int) -> None:
    answers = dict(run_each(math.sqrt, [1, 4, 9, 16, 25], jobs))
    assert answers == {0: 1, 1: 2, 2: 3, 3: 4, 4: 5}
    assert multiprocessing.active_children() == []


def test_no_tasks_need_no_process() -> None:
    assert list(run_each(math.sqrt, [], 4)) == []


def test_one_job_is_done_here() -> None:
    assert dict(run_each(eval, ["__import__('os').getpid()"], 8)) == {0: os.getpid()}


def test_two_jobs_are_done_elsewhere() -> None:
    pids = {pid for _, pid in run_each(eval, ["__import__('os').getpid()"] * 3, 2)}
    assert os.getpid() not in pids


def test_a_foreign_error_brings_its_traceback_and_ours_stays_itself() -> None:
    with pytest.raises(RuntimeError, match="ValueError: "):
        list(run_each(math.sqrt, [-1, -1], 2))
    raise_ours = "(_ for _ in ()).throw(__import__('agp_edge.errors').errors.InputError('what', 'hint'))"
    with pytest.raises(InputError) as caught:
        list(run_each(eval, [raise_ours] * 2, 2))
    assert (caught.value.what, caught.value.hint) == ("what", "hint")
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_noticed() -> None:
    with pytest.raises(WorkStoppedError, match="exit code 7"):
        list(run_each(cast(Any, os._exit), [7, 7], 2))
    assert multiprocessing.active_children() == []


def test_closing_ends_them_in_the_middle_of_their_work() -> None:
    start = time.monotonic()
    with closing(cast(Any, run_each(time.sleep, [0.0, 600.0, 600.0], 2))) as answers:
        assert next(answers) == (0, None)
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []
    assert time.monotonic() - start < 300
