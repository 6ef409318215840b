from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from agp_edge.deploy import probes
from agp_edge.deploy.probes import NO_ANSWER, Probes


def ask(code: str) -> object:
    with Probes({"it": code}) as asked:
        return asked.answers()["it"]


def test_an_answer_comes_back() -> None:
    assert ask("answer = {'version': '4.2', 'list': [1, None]}") == {"version": "4.2", "list": [1, None]}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libGL.so.1: cannot open')", "ImportError: libGL.so.1: cannot open"),
        ("os.abort()", "died of SIGABRT"),
        ("import signal; os.kill(os.getpid(), signal.SIGILL)", "died of SIGILL"),
        ("os.kill(os.getpid(), 40)", "died of signal 40"),
        ("sys.exit()", "ended with exit code 0 and no answer"),
        ("os._exit(3)", "ended with exit code 3 and no answer"),
        ("import time; time.sleep(100)", NO_ANSWER),
        ("os.fork() or __import__('time').sleep(100); import time; time.sleep(100)", NO_ANSWER),
    ],
    ids=lambda value: value[:30],
)
def test_what_a_broken_library_does_is_said(code: str, said: str) -> None:
    assert ask(code) == said


@pytest.mark.parametrize(
    "code",
    [
        # More than a pipe holds, before and after the answer.
        "print('x' * 200_000); answer = {'fine': True}; import atexit; atexit.register(print, 'bye')",
        # A crash at the end, which is never reached.
        "answer = {'fine': True}; import atexit; atexit.register(os.abort)",
        # A wait at the end.
        "answer = {'fine': True}; import atexit, time; atexit.register(time.sleep, 100)",
        # A grandchild that keeps the output open.
        "os.fork() or (__import__('time').sleep(1), os._exit(0)); answer = {'fine': True}",
    ],
)
def test_an_answer_counts_whatever_is_around_it(code: str) -> None:
    assert ask(code) == {"fine": True}


def test_one_that_works_is_waited_for_and_one_that_sleeps_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_SECONDS", 60)
    work = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\nanswer = {'done': True}"
    with Probes({"works": work, "sleeps": "import time; time.sleep(100)"}) as asked:
        assert asked.answers() == {"works": {"done": True}, "sleeps": NO_ANSWER}


def test_one_that_waits_for_a_device_is_waited_for(tmp_path: Path) -> None:
    """The parent of a vfork is in the state of a process that waits for a disk: D, and it uses no processor."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a wait with")
    (tmp_path / "wait.c").write_text(
        "#include <unistd.h>\nvoid wait_in_d(void) { if (vfork() == 0) { sleep(1); _exit(0); } }\n"
    )
    library = tmp_path / "libwait.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "wait.c"], check=True)
    assert ask(f"import ctypes; ctypes.CDLL({str(library)!r}).wait_in_d(); answer = {{'read': True}}") == {
        "read": True
    }


def test_one_that_works_for_ever_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_SECONDS", 0.5)
    assert ask("while True: pass") == NO_ANSWER


def test_a_driver_may_sleep_longer_and_others_gain_by_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "DRIVER_SECONDS", 60)
    code = "import time; time.sleep(1); answer = {'late': True}"
    assert ask(code) == NO_ANSWER
    with Probes({"gpu": code, "cv2": code.replace("(1)", "(0.7)")}, drivers=("gpu",)) as asked:
        assert asked.answers() == {"gpu": {"late": True}, "cv2": {"late": True}}


def test_nothing_is_left_running(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    code = f"""
import time
if os.fork() == 0:
    time.sleep(0.1)
while True:
    open({str(mark)!r}, "a").write("x")
    time.sleep(0.01)
"""
    asked = Probes({"it": code})
    while not mark.exists():
        time.sleep(0.01)
    asked.close()
    asked.close()
    before = mark.stat().st_size
    time.sleep(0.3)
    assert mark.stat().st_size == before


def test_a_folder_that_shares_a_library_s_name_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json5000.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert "No module named 'json5000'" in str(ask("import json5000; answer = {}"))
