"""Another engine takes over while the stream runs, or does not: no frame is lost either way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines import Sidecar
from agp_edge.engines.sidecar import read_sidecar, sidecar_path
from agp_edge.errors import DeviceLostError
from agp_edge.events import Event
from agp_edge.files import sha256_file, write_json
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sources import Frame
from agp_edge.stream import Stream
from agp_edge.stream import engine_change as changing
from agp_edge.stream.control import StreamControl
from agp_edge.verdict import Judge
from tests.agp_edge.stream.rig import Camera, Collect, Scripted, SeveralSlots, counts_of, with_slots

Part = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def link(tiny_engine: Path, tmp_path: Path) -> Path:
    """`line.engine`, a link to an engine, as `build-engine` leaves it."""
    return link_to(tmp_path / "line.engine", tiny_engine)


def link_to(link: Path, engine: Path) -> Path:
    for name, target in ((link, engine), (sidecar_path(link), sidecar_path(engine))):
        new = name.with_name(name.name + ".new")
        new.symlink_to(target.name)
        new.replace(name)
    return link


def another(
    engine: Path, name: str, change: Callable[[Sidecar], Sidecar] = lambda s: s, tail: bytes = b""
) -> Path:
    """A copy of an engine with other bytes in its plan (an empty doc string more), and so another hash."""
    import onnx

    model = onnx.load(str(engine))
    model.doc_string = name
    plan = engine.with_name(f"{name}.fp32.onnxruntime.engine")
    plan.write_bytes(model.SerializeToString() + tail)
    sidecar = replace(read_sidecar(engine), plan_sha256=sha256_file(plan))
    write_json(sidecar_path(plan), change(sidecar).to_dict())
    return plan


class Line:
    """A stream over a camera, in a thread, with what it told."""

    def __init__(self, engine: JudgingEngine, part: Part, **options: Any) -> None:
        self.events: list[Event] = []
        self.sink = Collect()
        self.stream = Stream([Camera(part)], engine, [self.sink], on_event=self.events.append, **options)
        self._thread = threading.Thread(target=self.stream.run)

    def __enter__(self) -> Line:
        self._thread.start()
        self.wait(lambda: self.stream.judged > 5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def wait(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert self._thread.is_alive(), "the stream ended"
            assert time.monotonic() < end, f"it did not happen; told: {[e.text for e in self.events]}"
            time.sleep(0.005)

    def told(self, kind: str) -> list[Event]:
        return [e for e in self.events if e.kind == kind]


def test_the_engine_behind_a_link_takes_over(link: Path, tiny_engine: Path, part: Part) -> None:
    new = another(tiny_engine, "new", lambda s: replace(s, normal_scores=[x + 0.1 for x in s.normal_scores]))
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        before = line.stream.control.status()["engine"]
        link_to(link, new)
        line.stream.control.change_engine()
        line.wait(lambda: line.told("engine-changed"))
        judged = line.stream.judged
        line.wait(lambda: line.stream.judged > judged + 5)
        status = line.stream.control.status()
    after = sha256_file(new)[:12]
    assert status["engine"] == after
    assert status["threshold"] == pytest.approx(0.5)
    assert line.told("engine-changed")[0].data == {"before": before, "now": after}
    engines = [j.engine for j in line.sink.all]
    assert engines == sorted(engines, key=[before, after].index), "first the one, then the other"
    (counts,) = counts_of(line.stream)
    assert counts["failed"] == 0, "no frame was lost"
    assert line.stream.summary()["engine"] == after


def spoil_self_test(sidecar: Sidecar) -> Sidecar:
    assert sidecar.self_test is not None
    return replace(sidecar, self_test=[score * 1.1 for score in sidecar.self_test])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (spoil_self_test, "fails its self-test"),
        (lambda s: replace(s, self_test=None), "has no self-test"),
        (lambda s: replace(s, plan_sha256="0" * 64), "hash"),
        (lambda s: replace(s, normal_scores=[]), "no normal scores"),
    ],
)
def test_one_that_is_not_good_does_not(
    link: Path, tiny_engine: Path, part: Part, change: Callable[[Sidecar], Sidecar], why: str
) -> None:
    new = another(tiny_engine, "new", change)
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        link_to(link, new)
        line.stream.control.change_engine()
        line.wait(lambda: line.told("engine-refused"))
        judged = line.stream.judged
        line.wait(lambda: line.stream.judged > judged + 5)
        assert line.stream.control.status()["engine"] == sha256_file(tiny_engine)[:12]
        # And one that is good may come later.
        link_to(link, another(tiny_engine, "good"))
        line.stream.control.change_engine()
        line.wait(lambda: line.told("engine-changed"))
    assert why in line.told("engine-refused")[0].text
    assert counts_of(line.stream)[0]["failed"] == 0


def test_one_of_another_frame_does_not(
    link: Path, tiny_engine: Path, tiny_mono_engine: Path, part: Part
) -> None:
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        line.stream.control.change_engine(tiny_mono_engine)
        line.wait(lambda: line.told("engine-refused"))
    assert "64x48 mono" in line.told("engine-refused")[0].text


def test_one_that_is_not_there_does_not(link: Path, tmp_path: Path, part: Part) -> None:
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        line.stream.control.change_engine(tmp_path / "absent.engine")
        line.wait(lambda: line.told("engine-refused"))
        judged = line.stream.judged
        line.wait(lambda: line.stream.judged > judged)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("fails_in", ["submit", "wait", "map"])
def test_one_that_fails_on_its_first_frame_gives_it_back(
    tiny_engine: Path, part: Part, monkeypatch: pytest.MonkeyPatch, fails_in: str, slots: int
) -> None:
    """The engine before is kept until the new one has given a verdict, and judges the very frame again."""

    def broken(*_: object) -> Any:
        raise DeviceLostError("the GPU is gone", "start again")

    def open_broken(path: Path) -> JudgingEngine:
        opened = open_judging_engine(path)
        session = SeveralSlots(opened.session, slots)
        for slot in session.slots:
            name = {"submit": "submit", "wait": "wait", "map": "anomaly_map"}[fails_in]
            monkeypatch.setattr(slot, name, broken)
        return replace(opened, session=session)

    monkeypatch.setattr(changing, "check_engine_self_test", lambda session, sidecar: 4)
    with (
        open_judging_engine(tiny_engine) as engine,
        Line(engine, lambda n: part(n, defect=True), open_engine=open_broken) as line,
    ):
        line.stream.control.change_engine()
        line.wait(lambda: line.told("engine-refused"))
        judged = line.stream.judged
        line.wait(lambda: line.stream.judged > judged + 5)
    assert "the GPU is gone" in line.told("engine-refused")[0].text
    (counts,) = counts_of(line.stream)
    assert counts["failed"] == 0, "the frame on which it failed was judged by the one before"
    assert {j.engine for j in line.sink.all} == {engine.id}


def test_a_threshold_that_was_set_holds_for_the_next_engine(
    link: Path, tiny_engine: Path, part: Part
) -> None:
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        line.stream.control.set_threshold(0.35)
        line.stream.control.change_engine(another(tiny_engine, "new"))
        line.wait(lambda: line.told("engine-changed"))
        assert line.stream.control.status()["threshold"] == 0.35


def test_a_rate_that_the_next_engine_cannot_promise_refuses_it(
    link: Path, tiny_engine: Path, part: Part
) -> None:
    few = another(tiny_engine, "few", lambda s: replace(s, normal_scores=s.normal_scores[:9]))
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        line.stream.control.set_false_reject_rate(0.02)
        line.stream.control.change_engine(few)
        line.wait(lambda: line.told("engine-refused"))
        assert line.stream.control.status()["engine"] == engine.id
    assert "cannot promise" in line.told("engine-refused")[0].text


def test_a_stream_that_ends_meanwhile_closes_both(link: Path, tiny_engine: Path, part: Part) -> None:
    new = another(tiny_engine, "new")
    with open_judging_engine(link) as engine, Line(engine, part) as line:
        line.stream.control.change_engine(new)
    assert not [t for t in threading.enumerate() if t.name == "open the next engine"]


def test_what_the_flags_asked_for_holds_for_the_next_engine(
    link: Path, tiny_engine: Path, part: Part
) -> None:
    """As the command opens engines: each with the flags' threshold."""
    with (
        open_judging_engine(link, threshold=0.9) as engine,
        Line(engine, part, open_engine=partial(open_judging_engine, threshold=0.9)) as line,
    ):
        line.stream.control.change_engine(another(tiny_engine, "new"))
        line.wait(lambda: line.told("engine-changed"))
        assert line.stream.control.status()["threshold"] == 0.9


class Endless(Camera):
    """Files without an end: there is always another frame."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, name="files")
        self.live = False

    def read(self) -> Frame:
        number, self._number = self._number, self._number + 1
        return Frame(self._part(number), number, time.monotonic_ns(), time.time(), "arrival", self.name)


def test_files_without_an_end_let_another_engine_in(tiny_engine: Path, part: Part) -> None:
    """The engine is never idle, because the next frames are brought while the last are judged."""
    new = another(tiny_engine, "new")
    events: list[Event] = []
    with open_judging_engine(tiny_engine) as engine:
        slow = with_slots(engine, 3, pause_s=0.01)
        stream = Stream([Endless(part)], slow, [Collect()], on_event=events.append)
        thread = threading.Thread(target=stream.run)
        thread.start()
        try:
            stream.control.change_engine(new)
            end = time.monotonic() + 30
            while not any(e.kind == "engine-changed" for e in events) and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            stream.stop()
            thread.join(20)
    assert any(e.kind == "engine-changed" for e in events)
    assert counts_of(stream)[0]["failed"] == 0


def test_engines_that_come_one_after_another_without_a_frame_are_let_go(
    tiny_engine: Path, part: Part
) -> None:
    """Nightly reloads of a line that stands still: only the engine that has given verdicts is kept, and the newest one."""
    opened: list[JudgingEngine] = []
    closed: list[str] = []

    def open_counted(path: Path) -> JudgingEngine:
        engine = open_judging_engine(path)
        close = engine.session.close

        def counted() -> None:
            closed.append(engine.id)
            close()

        engine.session.close = counted  # type: ignore[method-assign]
        opened.append(engine)
        return engine

    source = Scripted(part, "camera")
    events: list[Event] = []
    sink = Collect()
    engines = [another(tiny_engine, name) for name in ("one", "two", "three")]
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream([source], engine, [sink], on_event=events.append, open_engine=open_counted)
        thread = threading.Thread(target=stream.run)
        thread.start()
        end = time.monotonic() + 30
        try:
            source.give(0)
            while not stream.judged and time.monotonic() < end:
                time.sleep(0.01)
            for path in engines:
                stream.control.change_engine(path)
                while stream.control.status()["engine"] != sha256_file(path)[:12] and time.monotonic() < end:
                    time.sleep(0.01)
            assert closed == [e.id for e in opened[:2]], "those that gave no verdict are gone"
            source.give(1)
            while not any(e.kind == "engine-changed" for e in events) and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            source.give(None)
            thread.join(20)
    assert [j.engine for j in sink.all] == [engine.id, opened[2].id]
    changed = [e.data for e in events if e.kind == "engine-changed"]
    assert changed == [{"before": engine.id, "now": opened[2].id}]
    assert closed == [e.id for e in opened], "the last one is the stream's to close too"


def test_a_threshold_that_was_set_while_a_new_engine_failed_holds(tiny_engine: Path) -> None:
    control = StreamControl(
        with_scores([0.1, 0.2, 0.3]), [], lambda: pytest.fail("no status"), lambda event: None
    )
    before = control.judge
    control.take_over(with_scores([0.5, 0.6, 0.7]))
    control.set_threshold(0.65)
    control.give_back(before)
    assert control.judge.threshold == 0.65
    assert control.judge.p_value(0.15) == 0.75, "by the scores of the engine before"


def with_scores(scores: list[float]) -> JudgingEngine:
    return JudgingEngine(Path("x.engine"), None, Judge(scores, threshold=0.4), "0" * 64)  # type: ignore[arg-type]
