from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

from agp_edge.bundle import Bundle
from agp_edge.engines.sidecar import read_sidecar
from agp_edge.errors import InputError
from agp_edge.progress import Progress, silent
from agpnet.sample_data import SampleCounts
from benchmarks.demo import prepare_folder, run_demo


@contextmanager
def no_bar(title: str) -> Iterator[Progress]:
    yield silent


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, object], list[str]]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    said: list[str] = []
    result = run_demo(
        out,
        surface="gravel",
        steps=4,
        counts=SampleCounts(train=80, test_good=4, test_defect=2),
        benchmark_s=0.2,
        note=said.append,
        progress_bar=no_bar,
    )
    return out, result.describe(), result.to_dict(), said


Demo = tuple[Path, str, dict[str, object], list[str]]


def test_it_says_each_step(demo: Demo) -> None:
    _, _, _, said = demo
    assert [line.split("]")[0] for line in said] == [f"[{i}/8" for i in range(1, 9)]


def test_the_table_fits_a_terminal_and_ends_with_what_to_open(demo: Demo) -> None:
    _, table, _, _ = demo
    lines = table.splitlines()
    assert lines[-1].startswith("open")
    assert "contact_sheet.png" in lines[-1]
    for word in ("image AUROC", "AUPRO", "onnxruntime int8", "gate passed", "latency int8", "captured"):
        assert word in table


def test_everything_that_it_names_is_there(demo: Demo) -> None:
    out, _, values, _ = demo
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet is not None
    assert Bundle(out / "gravel.bundle").manifest.precisions == ["fp32", "fp16", "int8"]
    for precision in ("fp32", "int8"):
        sidecar = read_sidecar(out / f"gravel.{precision}.onnxruntime.engine")
        assert sidecar.gate is not None
        assert sidecar.gate["outcome"] == "passed"
    video = cv2.VideoCapture(str(out / "annotated.webm"))
    frames = 0
    while video.read()[0]:
        frames += 1
    video.release()
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert frames == len(lines) == 12
    stream = values["stream"]
    assert isinstance(stream, dict)
    source = stream["sources"][0]
    assert source["captured"] == source["judged"] + source["dropped"] + source["failed"] == 12
    assert source["ng"] == sum(line["verdict"] == "NG" for line in lines)
    assert json.loads((out / "demo.json").read_text())["seconds"] == values["seconds"]


def test_only_a_demo_is_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no demo"):
        prepare_folder(mine)
    assert (mine / "thesis.txt").read_text() == "years of work"
    prepare_folder(tmp_path / "new")
    (tmp_path / "new" / "old.engine").write_bytes(b"")
    prepare_folder(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["demo.json"]


def test_an_unknown_surface_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample surface 'snow'"):
        run_demo(tmp_path / "demo", surface="snow", note=print, progress_bar=no_bar)
    assert not (tmp_path / "demo").exists()
