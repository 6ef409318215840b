"""`agp-edge demo`: the whole chain on sample data, from good parts to verdicts on a video, with what was measured."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agp_edge.benchmark import benchmark_engine
from agp_edge.bundle import Bundle
from agp_edge.contact_sheet import choose_rows, draw_contact_sheet, load_rows
from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.images import read_image
from agp_edge.engines import get_backend, open_engine
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.builder import Built, build_engine
from agp_edge.errors import InputError
from agp_edge.evaluation import Evaluation, VerdictCounts, count_verdicts, evaluate
from agp_edge.extras import import_cv2
from agp_edge.files import translate_write_errors, write_json
from agp_edge.frame import Precision
from agp_edge.judging import open_judging_engine
from agp_edge.progress import Progress
from agp_edge.sinks.jsonl import JsonlSink
from agp_edge.sinks.video import VideoSink
from agp_edge.sources import open_source
from agp_edge.stream import Stream
from agp_edge.verdict import Judge
from agpnet.config import make_config
from agpnet.run import open_run
from agpnet.sample_data import SURFACES, SampleCounts, make_sample_data
from agpnet.training import train
from calib.calibrate import calibrate
from export.onnx_export import export_run

MARKER = "demo.json"
FORMAT = "agp-edge-demo"
STEPS = 800
COUNTS = SampleCounts(train=320)
"""Enough good images that 32 are left for the gate and 32 for the threshold."""
VIDEO_FPS = 10.0
BENCHMARK_S = 2.0

Note = Callable[[str], None]
Bars = Callable[[str], AbstractContextManager[Progress]]


@dataclass
class DemoResult:
    """What a demo measured.

    Attributes:
        out: its folder.
        seconds: wall time of each step.
        values: everything that was measured, as `demo.json` keeps it.
        rows: the final table.
    """

    out: Path
    seconds: dict[str, float] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def describe(self) -> str:
        """The final table, for a terminal of 80 columns."""
        width = max(len(name) for name, _ in self.rows)
        lines = [f"{name.ljust(width)}  {value}" for name, value in self.rows]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return {"format": FORMAT, "out": str(self.out), "seconds": self.seconds, **self.values}


def run_demo(
    out: Path,
    *,
    surface: str = SURFACES[0],
    steps: int | None = None,
    counts: SampleCounts = COUNTS,
    benchmark_s: float = BENCHMARK_S,
    note: Note,
    progress_bar: Bars,
) -> DemoResult:
    """Run the chain and leave everything in a folder.

    Args:
        out: the folder; a demo that is there is replaced.
        surface: one of the sample surfaces: a line has one product.
        steps: of the training; fewer are faster and worse.
        counts: images to make.
        benchmark_s: seconds to measure each engine for.
        note: told, in one line, what each step does.
        progress_bar: opens a listener for long work.

    Raises:
        InputError: `out` holds something that is no demo, or there is no such surface.
        AgpEdgeError: whatever a step raises.
    """
    if surface not in SURFACES:
        raise InputError(f"there is no sample surface {surface!r}", f"take one of: {', '.join(SURFACES)}")
    prepare_folder(out)
    result = DemoResult(out)
    chain = _Chain(result, note, progress_bar)
    start = time.monotonic()
    dataset = chain.make_data(surface, counts)
    chain.train(dataset, steps or STEPS)
    bundle = chain.export(dataset)
    engines = chain.build(bundle)
    verdicts = chain.judge(dataset, engines["int8"])
    chain.stream(dataset, engines["int8"])
    chain.benchmark(engines, benchmark_s)
    result.seconds["total"] = round(time.monotonic() - start, 1)
    result.values["verdicts"] = verdicts.to_dict()
    chain.row(
        "wall time", f"{result.seconds['total']:.0f} s, of which training {result.seconds['train']:.0f} s"
    )
    chain.row("open", f"{out}/contact_sheet.png, {out}/annotated.webm, {out}/verdicts.jsonl")
    write_json(out / MARKER, result.to_dict())
    return result


def prepare_folder(out: Path) -> None:
    """Make an empty folder, with a marker that it is a demo's; an older demo is removed.

    Raises:
        InputError: it holds something else.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        raise InputError(f"{out} exists and is no demo", "give another folder: agp-edge demo --out FOLDER")
    with translate_write_errors(out):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
    write_json(out / MARKER, {"format": FORMAT, "state": "running"})


class _Chain:
    """The steps, each of which says what it does, is timed, and adds rows to the table."""

    def __init__(self, result: DemoResult, note: Note, progress_bar: Bars) -> None:
        self.result = result
        self.out = result.out
        self._note = note
        self._bar = progress_bar
        self._number = 0

    def row(self, name: str, value: str) -> None:
        self.result.rows.append((name, value))

    @contextmanager
    def _step(self, key: str, what: str) -> Iterator[None]:
        self._number += 1
        self._note(f"[{self._number}/8] {what}")
        start = time.monotonic()
        yield
        self.result.seconds[key] = round(time.monotonic() - start, 1)

    def make_data(self, surface: str, counts: SampleCounts) -> Dataset:
        data = self.out / "data"
        with self._step(
            "data", f"sample data: photographs of {surface}, defects drawn on them -> {data}/{surface}"
        ):
            with self._bar("images") as progress:
                make_sample_data(data, surfaces=(surface,), counts=counts, progress=progress)
            dataset = load_dataset(data / surface)
        n = [
            sum(len(part) for part in (getattr(c, name) for c in dataset.classes))
            for name in ("train", "test")
        ]
        self.row("images", f"{n[0]} good to train on, {n[1]} to test on, half of them with a defect")
        return dataset

    def train(self, dataset: Dataset, steps: int) -> None:
        run = self.out / "run"
        config = make_config(backbone="filterbank", steps=steps)
        with (
            self._step("train", f"train AGPNet on good images only -> {run}"),
            self._bar("train") as progress,
        ):
            record = train(dataset, config, run, progress=progress)
        self.row(
            "training",
            f"{record.step} steps on {len(record.trained)} images, {len(record.held_out)} held out",
        )
        with (
            self._step("evaluate", "evaluate the trained network on the test images"),
            self._bar("evaluate") as progress,
            open_run(run) as session,
        ):
            evaluation = evaluate(session, dataset, progress=progress)
        self.result.values["run"] = evaluation.to_dict()
        self.row("torch", _metrics(evaluation))

    def export(self, dataset: Dataset) -> Bundle:
        path = self.out / f"{dataset.classes[0].name}.bundle"
        with self._step("export", f"export to ONNX that takes the camera's frames, calibrate INT8 -> {path}"):
            with self._bar("export") as progress:
                export_run(self.out / "run", path, progress=progress)
            with self._bar("calibrate") as progress:
                calibration = calibrate(path, dataset, progress=progress)
            calibration.check()
        self.result.values["calibration"] = calibration.to_dict()
        return calibration.bundle

    def build(self, bundle: Bundle) -> dict[Precision, Built]:
        engines: dict[Precision, Built] = {}
        built: list[Built] = []
        with self._step(
            "build", f"build engines, each through the gate on this machine -> {self.out}/*.engine"
        ):
            for backend, precision, options in self._targets():
                with self._bar(f"{backend} {precision}") as progress:
                    engine = build_engine(bundle, precision, backend, options=options, progress=progress)
                built.append(engine)
                if backend == "onnxruntime":
                    engines[precision] = engine
        for engine in built:
            sidecar, report = engine.sidecar, engine.report
            said = (
                f"gate {report.outcome}, {len(report.flips)} flips in {report.n}, bound {report.bound_95:.1%}"
                if report
                else f"built for {', '.join(sidecar.device['compute_capabilities'])}; not run: no GPU"
            )
            self.row(f"{sidecar.backend} {sidecar.precision}", f"{engine.size_bytes / 1e6:.1f} MB, {said}")
        self.result.values["engines"] = [{"engine": b.path.name, **b.sidecar.to_dict()} for b in built]
        return engines

    def _targets(self) -> Iterator[tuple[str, Precision, BuildOptions]]:
        """FP32 and INT8 for this CPU; a plan for an RTX GPU and for a GPU that is here, where they can be built."""
        yield "onnxruntime", "fp32", BuildOptions()
        yield "onnxruntime", "int8", BuildOptions()
        if get_backend("tensorrt-rtx").unavailable() is None:
            yield "tensorrt-rtx", "int8", BuildOptions(compute_capabilities=("8.6",))
        if get_backend("tensorrt").unavailable() is None:
            yield "tensorrt", "int8", BuildOptions()

    def judge(self, dataset: Dataset, engine: Built) -> VerdictCounts:
        sheet = self.out / "contact_sheet.png"
        session, sidecar = open_engine(engine.path)
        with (
            self._step("judge", f"judge the test images with the INT8 engine -> {sheet}"),
            self._bar("judge") as progress,
            session,
        ):
            evaluation = evaluate(
                session,
                dataset,
                progress=progress,
                keep=lambda images: choose_rows(images, good=2, each_defect=2),
            )
            judge = Judge(sidecar.normal_scores)
            rows = load_rows(evaluation.images, session.frame)
            draw_contact_sheet(rows, sheet, threshold=judge.threshold, title="agp-edge demo: INT8 engine")
        counts = count_verdicts(evaluation.images, judge)
        self.result.values["int8"] = evaluation.to_dict()
        self.row("INT8 engine", _metrics(evaluation))
        self.row(
            "verdicts",
            f"{counts.false_rejects} of {counts.n_good} good rejected, {counts.misses} of {counts.n_defect} "
            "defects missed",
        )
        return counts

    def stream(self, dataset: Dataset, engine: Built) -> None:
        video, annotated, lines = (self.out / n for n in ("parts.avi", "annotated.webm", "verdicts.jsonl"))
        samples = [sample for data in dataset.classes for sample in data.test]
        with self._step(
            "stream", f"stream a video of the test parts through the INT8 engine -> {annotated}, {lines}"
        ):
            write_video(samples, video)
            with open_judging_engine(engine.path) as judging:
                frame = judging.session.frame
                sinks = [JsonlSink(str(lines)), VideoSink(annotated, (frame.width, frame.height), VIDEO_FPS)]
                stream = Stream([open_source(str(video))], judging, sinks)
                with self._bar("stream") as progress:
                    stream.run(progress)
        summary = stream.summary()
        source = summary["sources"][0]
        fps = source["judged"] / (summary["elapsed_ms"] / 1000)
        verdicts = [json.loads(line)["verdict"] for line in lines.read_text(encoding="utf-8").splitlines()]
        right = sum((v == "OK") == s.good for v, s in zip(verdicts, samples, strict=True))
        self.result.values["stream"] = summary
        self.row(
            "stream",
            f"{source['captured']} captured = {source['judged']} judged + {source['dropped']} dropped + "
            f"{source['failed']} failed; {fps:.0f} frames/s",
        )
        self.row("", f"{source['ng']} NG; {right} of {len(samples)} verdicts as the truth has it")

    def benchmark(self, engines: dict[Precision, Built], seconds: float) -> None:
        reports = {}
        with self._step("benchmark", "benchmark both engines, single-stream, quick mode"):
            for precision, engine in engines.items():
                report = benchmark_engine(engine.path, data=self.out / "parts.avi", duration_s=seconds)
                write_json(self.out / f"benchmark.{precision}.json", report)
                reports[precision] = report
        for precision, report in reports.items():
            ms = report["latency_ms"]
            self.row(
                f"latency {precision}",
                f"p50 {ms['p50']:.1f} ms, p99 {ms['p99']:.1f} ms, {report['throughput_fps']:.0f} frames/s, n {ms['n']}",
            )
        self.result.values["benchmark"] = reports


def write_video(samples: Sequence[Sample], path: Path, fps: float = VIDEO_FPS) -> None:
    """Encode images as FFV1, without loss.

    A network learns the frames of its camera, with whatever the camera's compression does to them. The sample images
    are uncompressed, and the same parts as Motion JPEG would be another camera's.

    Args:
        samples: images of one size.
        path: an `.avi`.
        fps: frames a second.

    Raises:
        InputError: it cannot be written.
    """
    cv2 = import_cv2("writing video")
    height, width = read_image(samples[0].path).shape[:2]
    writer = cv2.VideoWriter(
        str(path),
        cv2.CAP_FFMPEG,
        cv2.VideoWriter_fourcc(*"FFV1"),
        fps,
        (width, height),
    )
    if not writer.isOpened():
        raise InputError(f"cannot write the video {path}", "give a folder that this user can write")
    try:
        for sample in samples:
            writer.write(read_image(sample.path))
    finally:
        writer.release()


def _metrics(evaluation: Evaluation) -> str:
    values = evaluation.mean.values
    names = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
    return ", ".join(f"{name} {values[key] or 0:.3f}" for key, name in names.items())
