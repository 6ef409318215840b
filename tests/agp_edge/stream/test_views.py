"""Regions of interest, masks and small regions: what of a frame counts."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import InputError, SourceLostError
from agp_edge.events import Event
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.masks import Mask
from agp_edge.roi import Roi, parse_rois
from agp_edge.sinks import Judgement
from agp_edge.sinks.jsonl import JsonlSink
from agp_edge.sources import Frame, open_source
from agp_edge.stream import Feed, Stream
from tests.agp_edge.stream.rig import Camera, Collect, counts_of

Part = Callable[..., NDArray[np.uint8]]
WIDE = 160
"""Two of the engine's frames, 64 wide, and a gap of 32 between them."""


@pytest.fixture
def engine(tiny_engine: Path) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield opened


def wide(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = np.full((48, WIDE, 3), 76, np.uint8)
    pixels[:, :64], pixels[:, 96:] = left, right
    return pixels


def shots(folder: Path, part: Part, defects: Sequence[tuple[bool, bool]]) -> str:
    for i, (left, right) in enumerate(defects):
        write_png(folder / f"{i}.png", wide(part(i, defect=left), part(i, defect=right)))
    return str(folder / "?.png")


def otherwise(frame: Frame) -> Frame:
    """The same in another size."""
    return dataclasses.replace(frame, pixels=np.zeros((60, 80, 3), np.uint8))


ROIS = [Roi("left", 0, 0, 64, 48), Roi("right", 96, 0, 64, 48)]


def test_each_region_of_a_frame_has_its_verdict(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    source = shots(tmp_path, part, [(False, False), (True, False), (False, True), (True, True)])
    lines = tmp_path / "v.jsonl"
    stream = Stream([Feed(open_source(source), ROIS)], engine, [JsonlSink(str(lines))])
    stream.run()
    verdicts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(v["frame"], v["roi"], v["verdict"]) for v in verdicts] == [
        (0, "left", "OK"), (0, "right", "OK"), (1, "left", "NG"), (1, "right", "OK"),
        (2, "left", "OK"), (2, "right", "NG"), (3, "left", "NG"), (3, "right", "NG"),
    ]  # fmt: skip
    boxes: dict[str, list[int]] = {v["roi"]: v["regions"][0][:4] for v in verdicts if v["verdict"] == "NG"}
    assert boxes == {"left": [24, 16, 16, 16], "right": [96 + 24, 16, 16, 16]}, "in the camera's whole frame"
    assert [line["roi"] for line in stream.summary()["sources"]] == ["left", "right"]
    assert [(line["captured"], line["judged"], line["ng"]) for line in counts_of(stream)] == [(4, 4, 2)] * 2


@pytest.mark.parametrize("regions", [2, 3, 5])
def test_regions_share_batches(tmp_path: Path, tiny_batch_engine: Path, part: Part, regions: int) -> None:
    """A batch of four: regions of one frame may come to lie in two batches, and none is lost."""
    source = shots(tmp_path, part, [(i % 2 == 0, i % 3 == 0) for i in range(7)])
    rois = parse_rois([f"r{i}={(0, 96, 32, 8, 90)[i]},0" for i in range(regions)], (64, 48))
    sink = Collect()
    with open_judging_engine(tiny_batch_engine) as batched:
        stream = Stream([Feed(open_source(source), rois)], batched, [sink])
        stream.run()
    assert [(j.frame, j.roi and j.roi[0]) for j in sink.all] == [
        (frame, roi.name) for frame in range(7) for roi in rois
    ]
    counts_of(stream)


def test_verdicts_stop_at_their_number_within_a_frame(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    source = shots(tmp_path, part, [(False, False)] * 4)
    stream = Stream([Feed(open_source(source), ROIS)], engine, frames=3)
    stream.run()
    assert [line["judged"] for line in counts_of(stream)] == [2, 1]
    assert [line["failed"] for line in counts_of(stream)] == [0, 1]


def test_a_region_beyond_the_frame(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    source = shots(tmp_path, part, [(False, False)])
    stream = Stream([Feed(open_source(source), [Roi("out", 100, 0, 64, 48)])], engine)
    with pytest.raises(InputError, match="beyond a frame"):
        stream.run()


def test_what_is_masked_never_counts(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    for i in range(4):
        write_png(tmp_path / f"{i}.png", part(i, defect=i % 2 == 1))
    masked = np.zeros((48, 64), bool)
    masked[16:32, 24:40] = True  # where the defect is
    plain, under = Collect(), Collect(wants="pictures")
    Stream([open_source(str(tmp_path / "?.png"))], engine, [plain]).run()
    Stream([Feed(open_source(str(tmp_path / "?.png")), mask=Mask(masked, "mask"))], engine, [under]).run()
    assert [j.verdict for j in plain.all] == ["OK", "NG", "OK", "NG"]
    assert [j.verdict for j in under.all] == ["OK"] * 4
    assert max(j.score for j in under.all) <= 0.4
    for shown, all_of_it in zip(under.all, plain.all, strict=True):
        assert shown.score <= all_of_it.score
        assert shown.p_value >= all_of_it.p_value


def test_a_mask_of_another_size(engine: JudgingEngine, part: Part) -> None:
    with pytest.raises(InputError, match="32x48"):
        Stream([Feed(Camera(part), mask=Mask(np.eye(48, 32, dtype=bool), "mask"))], engine)


def test_a_mask_covers_the_whole_frame_and_each_region_has_its_part(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    source = shots(tmp_path, part, [(True, True)])
    masked = np.zeros((48, WIDE), bool)
    masked[:, 80:] = True
    masked[0, 159] = False
    sink = Collect()
    with pytest.raises(InputError, match="touches every"):
        Stream([Feed(open_source(source), ROIS, Mask(masked, "mask"))], engine, [sink]).run()
    masked[:, 80:110] = False
    masked[8:40, 112:144] = True
    Stream([Feed(open_source(source), ROIS, Mask(masked, "mask"))], engine, [sink]).run()
    assert [j.verdict for j in sink.all[-2:]] == ["NG", "OK"]


@pytest.mark.parametrize(("min_area", "verdict"), [(0, "NG"), (256, "NG"), (257, "OK")])
def test_regions_below_an_area_make_no_frame_ng(
    tmp_path: Path, engine: JudgingEngine, part: Part, min_area: int, verdict: str
) -> None:
    write_png(tmp_path / "0.png", part(0, defect=True))
    sink = Collect()
    Stream([open_source(str(tmp_path / "0.png"))], engine, [sink], min_area=min_area).run()
    (judgement,) = sink.all
    assert judgement.verdict == verdict
    assert judgement.score > judgement.threshold, "the score says what the network says"
    assert bool(judgement.regions) == (verdict == "NG")


def test_a_camera_that_comes_back_with_other_frames_is_waited_for(tiny_engine: Path, part: Part) -> None:
    """It was restarted at another resolution: nothing is scaled, every frame is counted, and the stream goes on."""
    told: list[str] = []

    class Changes(Camera):
        def read(self) -> Frame | None:
            frame = super().read()
            return otherwise(frame) if frame is not None and 10 <= frame.number < 20 else frame

    sink = Collect()
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream(
            [Changes(part, total=40)], engine, [sink], on_event=lambda event: told.append(event.kind)
        )
        stream.run()
    (line,) = counts_of(stream)
    assert line["captured"] == 40
    assert line["failed"] >= 1
    assert max(j.frame for j in sink.all) == 39
    assert told == ["frame-failed"], "once, not for each frame"


def test_a_camera_that_comes_late_in_another_size_does_not_end_the_others(
    tiny_engine: Path, part: Part
) -> None:
    """It was off when the line began, and somebody set it otherwise meanwhile."""

    class Late(Camera):
        tries = 0

        def open(self) -> None:
            self.tries += 1
            if self.tries == 1 or not first.judged_some.is_set():
                raise SourceLostError(f"{self.name} does not answer", "see that it is on")

        def read(self) -> Frame | None:
            frame = super().read()
            return frame and otherwise(frame)

    class First(Collect):
        judged_some = threading.Event()

        def write(self, judgement: Judgement) -> None:
            super().write(judgement)
            self.judged_some.set()

    first = First()
    told: list[Event] = []
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream(
            [Camera(part, total=300, name="a"), Late(part, total=20, name="b")], engine, [first],
            on_event=told.append,
        )  # fmt: skip
        stream.run()
    of_a, of_b = counts_of(stream)
    assert of_a["captured"] == 300
    assert (of_b["captured"], of_b["judged"]) == (20, 0)
    assert [(e.kind, e.source) for e in told if e.kind == "frame-failed"] == [("frame-failed", "b")]


def test_a_camera_of_the_wrong_size_from_the_start_is_a_wrong_command(
    engine: JudgingEngine, part: Part
) -> None:
    class Large(Camera):
        def read(self) -> Frame | None:
            frame = super().read()
            return frame and otherwise(frame)

    stream = Stream([Large(part)], engine)
    with pytest.raises(InputError, match=r"80x60.*64x48") as caught:
        stream.run()
    assert "--roi" in caught.value.hint
    counts_of(stream)
