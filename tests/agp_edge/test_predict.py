"""Verdicts for images: the same as the stream's, with maps that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import read_image, write_png
from agp_edge.engines import read_sidecar
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import write_json
from agp_edge.judging import JudgingEngine, make_judge, open_judging_engine
from agp_edge.predict import predict

Part = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def engine(tiny_engine: Path) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield opened


def test_folders_files_and_globs(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    shots = tmp_path / "shots"
    for name, defect in (("good/000.png", False), ("broken/000.png", True), ("broken/001.png", True)):
        write_png(shots / name, part(1, defect=defect))
    found = predict(engine, [str(shots / "good" / "000.png"), str(shots / "*" / "*.png"), str(shots)])
    assert [(str(p.file.relative_to(shots)), p.verdict) for p in found.images] == [
        ("good/000.png", "OK"),
        ("broken/000.png", "NG"),
        ("broken/001.png", "NG"),
    ]
    assert found.images[0].p_value > found.images[1].p_value == pytest.approx(1 / 100)
    assert found.images[0].regions == []
    assert found.images[1].regions[0].as_list()[:4] == [24, 16, 16, 16]
    assert not found.failed
    found.raise_failures()


def test_overlays_and_raw_maps(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    for kind in ("good", "broken"):
        write_png(tmp_path / "shots" / kind / "000.png", part(1, defect=kind == "broken"))
    found = predict(engine, [str(tmp_path / "shots" / "*" / "000.png")], tmp_path / "out")
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {f"{k}/000.png.{e}" for k in ("good", "broken") for e in ("overlay.png", "map.npy")}
    for image in found.images:
        assert image.map is not None
        assert image.overlay is not None
        raw = np.load(image.map, allow_pickle=False)
        assert (raw.shape, raw.dtype) == ((6, 8), np.float32)
        assert raw.max() == pytest.approx(image.score)
        assert read_image(image.overlay).shape == (48, 64, 3)


def test_what_cannot_be_judged_keeps_nothing_from_the_others(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    write_png(tmp_path / "shots" / "0.png", part(0))
    (tmp_path / "shots" / "1.png").write_bytes(b"no image")
    write_png(tmp_path / "shots" / "2.png", part(2)[:, :40])
    write_png(tmp_path / "shots" / "3.png", part(3))
    found = predict(engine, [str(tmp_path / "shots")])
    assert [p.file.name for p in found.images] == ["0.png", "3.png"]
    assert [file.name for file, _ in found.failed] == ["1.png", "2.png"]
    assert len(found.rows()) == 4
    assert len(found.to_dict()["failed"]) == 2
    with pytest.raises(InputError, match=r"2 of 4 .*1\.png"):
        found.raise_failures()


def test_many_that_failed_are_summed_up(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    for i in range(10):
        write_png(tmp_path / "shots" / f"{i}.png", part(i)[:, :40])
    found = predict(engine, [str(tmp_path / "shots")])
    assert [Path(row[0]).name for row in found.rows()] == ["0.png", "1.png", "2.png", "… and 7 more"]
    assert len(found.to_dict()["failed"]) == 10


def test_videos_and_urls_are_told_where_they_go(
    tmp_path: Path, engine: JudgingEngine, part: Part, write_video: Callable[..., Path]
) -> None:
    video = write_video(tmp_path / "cam.avi", [part(0)])
    for given, shown in ((str(video), str(video)), ("rtsp://u:secret@cam/live", "rtsp://u:***@cam/live")):
        with pytest.raises(InputError) as caught:
            predict(engine, [given])
        assert f"stream --engine ENGINE --source {shown}" in caught.value.hint
        assert "secret" not in str(caught.value)


def test_no_images(tmp_path: Path, engine: JudgingEngine) -> None:
    with pytest.raises(InputError, match="absent"):
        predict(engine, [str(tmp_path / "absent.png")])


def test_an_engine_without_normal_scores_needs_a_threshold(tiny_engine: Path) -> None:
    sidecar = replace(read_sidecar(tiny_engine), normal_scores=[])
    write_json(sidecar_path(tiny_engine), sidecar.to_dict())
    with pytest.raises(ArtefactError, match="normal scores"):
        open_judging_engine(tiny_engine)
    with open_judging_engine(tiny_engine, threshold=0.5) as engine:
        assert engine.judge.threshold == 0.5
        assert engine.judge.verdict(0.51) == "NG"
        assert engine.judge.p_value(0.51) == 1
        assert engine.judge.conformal is None


def test_thresholds(tiny_engine: Path) -> None:
    sidecar = read_sidecar(tiny_engine)
    assert make_judge(tiny_engine, sidecar).threshold == pytest.approx(0.4)
    assert make_judge(tiny_engine, sidecar, 0.1).threshold < 0.4
    for rate, threshold in ((0.1, 0.5), (None, float("nan")), (1e-6, None)):
        with pytest.raises(InputError):
            make_judge(tiny_engine, sidecar, rate, threshold)
