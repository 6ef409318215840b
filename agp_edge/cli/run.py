"""Commands that run an engine on frames: stream, predict; and capture, which collects them."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agp_edge.cli.console import note, progress_bar, say, table, write_json_result
from agp_edge.cli.options import (
    CONTROL,
    DECODE,
    FOLLOW,
    FPS,
    JSON,
    MEMORY,
    NO_CUDA_GRAPHS,
    PIXEL_FORMAT,
    REALTIME,
    SIZE,
    SPIN_WAIT,
    TIMEOUT,
    TRANSPORT,
    outside_bundles,
    run_options,
    source_options,
)
from agp_edge.errors import AgpEdgeError, InputError, MissingExtraError

if TYPE_CHECKING:
    from agp_edge.frame import FrameSpec
    from agp_edge.judging import JudgingEngine
    from agp_edge.sinks import Sink
    from agp_edge.sources import Source
    from agp_edge.verdict import Judge

IMPATIENT_S = 1.0
"""A second Ctrl-C within this time is the first one's echo: `timeout` and shells signal a process and its group."""

SOURCE_COLUMNS = 28
"""Room for a source's name in a table of 80 columns."""

LIVE_FPS, STILLS_FPS = 25.0, 2.0
"""At which the video of a camera, or of images, plays: sources that have no rate of their own."""


def stream(
    camera: str | None = typer.Option(
        None, "--camera", metavar="N", help="A camera by number: 0 is /dev/video0."
    ),
    source: list[str] = typer.Option(
        [], "--source", help="A camera, URL, video file, image, folder or glob; may be given several times."
    ),
    engine: Path = typer.Option(..., "--engine", help="The engine that judges."),
    jsonl: str | None = typer.Option(
        None, "--jsonl", help="Append a JSON line for every verdict; - is stdout.", callback=outside_bundles
    ),
    rejects: Path | None = typer.Option(
        None, "--rejects", help="Folder for NG frames with heat map and verdict.", callback=outside_bundles
    ),
    video: Path | None = typer.Option(
        None,
        "--video",
        help="Annotated video: .webm or .mp4; with several sources one file each, FILE-1, FILE-2 …",
        callback=outside_bundles,
    ),
    false_reject_rate: str | None = typer.Option(
        None,
        "--false-reject-rate",
        metavar="RATE",
        help="Share of good frames that may be rejected, 0.01 or 1%; default 1%.",
    ),
    threshold: float | None = typer.Option(None, "--threshold", help="A threshold set by hand instead."),
    every: int = typer.Option(1, "--every", help="Judge every N-th frame of a source."),
    frames: int | None = typer.Option(None, "--frames", help="Stop after N verdicts."),
    batch_wait: float | None = typer.Option(
        None,
        "--batch-wait",
        metavar="MS",
        help="How long a frame waits for others, where the engine takes several at once; default 5.",
    ),
    memory: str = MEMORY,
    no_cuda_graphs: bool = NO_CUDA_GRAPHS,
    spin_wait: bool = SPIN_WAIT,
    json_file: str | None = JSON,
) -> None:
    """Judge the frames of cameras and files, live: the newest frame wins, and a lost camera is waited for.

    Examples:

    \b
      agp-edge stream --camera 0 --engine E --jsonl verdicts.jsonl
      agp-edge stream --source rtsp://10.0.0.5/live --engine E --rejects ng
    """
    from agp_edge.judging import open_judging_engine
    from agp_edge.sinks.video import check_replaceable
    from agp_edge.sources import open_source
    from agp_edge.stream import BATCH_WAIT_MS, Stream, check_batch_wait

    options = run_options(memory, no_cuda_graphs, spin_wait)
    wait_ms = BATCH_WAIT_MS if batch_wait is None else batch_wait
    check_batch_wait(wait_ms)
    if jsonl == "-" and json_file == "-":
        raise InputError("--jsonl and --json both go to stdout", "give one of them a file")
    to_stdout = "-" if "-" in (jsonl, json_file) else None
    uris = _uris(camera, source)
    sources = [open_source(uri) for uri in uris]
    videos = _video_paths(video, len(sources))
    outputs = [("--jsonl", jsonl), ("--json", json_file), *(("--video", str(path)) for path in videos)]
    _check_outputs(outputs, engine, uris)
    for path in videos:
        check_replaceable(path)
    with (
        open_judging_engine(engine, _rate(false_reject_rate), threshold, options) as judging,
        contextlib.ExitStack() as opened,
    ):
        spec = judging.session.frame
        for item in sources:
            # What can be known of a file is told before anything is written; and the video needs to know its rate.
            if not item.live:
                _check_first_frame(item, spec)
        sinks = _sinks(opened, jsonl, rejects, videos, sources, (spec.width, spec.height), every)
        running = Stream(
            sources,
            judging,
            sinks,
            every=every,
            frames=frames,
            batch_wait_ms=wait_ms,
            on_event=lambda event: note(event.text),
        )
        _introduce(judging)
        with (
            _told_at_end(sinks),
            _summary_at_end(running.summary, stream_report, json_file, to_stdout, lambda: running.judged > 0),
            _stopping(running.stop),
            progress_bar("stream") as progress,
        ):
            running.run(progress)


def predict(
    engine: Path = typer.Argument(..., help="The engine that judges."),
    images: list[str] = typer.Argument(..., help="Image files, folders or globs."),
    out: Path | None = typer.Option(
        None,
        "--out",
        help="Folder for overlays (PNG) and raw maps (NPY, float32) of every image.",
        callback=outside_bundles,
    ),
    false_reject_rate: str | None = typer.Option(
        None,
        "--false-reject-rate",
        metavar="RATE",
        help="Share of good frames that may be rejected, 0.01 or 1%; default 1%.",
    ),
    threshold: float | None = typer.Option(None, "--threshold", help="A threshold set by hand instead."),
    json_file: str | None = JSON,
) -> None:
    """Judge images on disk: verdict, score and p-value of each, and heat maps with --out.

    Examples:

    \b
      agp-edge predict part.fp32.onnxruntime.engine shots/ --out maps
      agp-edge predict part.fp32.onnxruntime.engine 'test/*/0*.png' --json -
    """
    from agp_edge.judging import open_judging_engine
    from agp_edge.predict import predict as predict_images

    _check_outputs([("--json", json_file)], engine, images)
    with open_judging_engine(engine, _rate(false_reject_rate), threshold) as judging:
        _introduce(judging)
        with progress_bar("predict") as progress:
            found = predict_images(judging, images, out, progress)
    say(table(found.rows(), ("file", "verdict", "score", "p-value")), json_file)
    write_json_result(json_file, found.to_dict())
    found.raise_failures()


def capture(
    out: Path = typer.Option(
        ..., "--out", help="Data set to collect into: DATA/train/good.", callback=outside_bundles
    ),
    camera: str | None = typer.Option(
        None, "--camera", metavar="N", help="A camera by number: 0 is /dev/video0."
    ),
    source: list[str] = typer.Option(
        [], "--source", help="A camera, URL, video file, image, folder or glob; one only."
    ),
    frames: int | None = typer.Option(None, "--frames", help="End after N frames were kept."),
    every: int = typer.Option(1, "--every", help="Look at every N-th frame only."),
    interval: float | None = typer.Option(
        None, "--interval", metavar="SECONDS", help="Look at a frame so often instead."
    ),
    trigger: str | None = typer.Option(
        None,
        "--trigger",
        metavar="URL",
        help="Look at the first frame after each trigger instead: mqtt://, http://, gpio://.",
    ),
    roi: str | None = typer.Option(
        None, "--roi", metavar="X,Y,W,H", help="Keep this part of each frame, as the engine is to see it."
    ),
    keep_similar: bool = typer.Option(
        False, "--keep-similar", help="Keep frames that look alike, as of parts in a fixture."
    ),
    size: str | None = SIZE,
    fps: float | None = FPS,
    pixel_format: str | None = PIXEL_FORMAT,
    control: list[str] = CONTROL,
    transport: str = TRANSPORT,
    decode: str = DECODE,
    timeout: float = TIMEOUT,
    realtime: bool = REALTIME,
    follow: bool = FOLLOW,
    json_file: str | None = JSON,
) -> None:
    """Collect frames of good parts, without near-duplicates and blur. Nothing is overwritten; Ctrl-C ends it.

    Examples:

    \b
      agp-edge capture --camera 0 --out data/bottle --frames 200 --every 10
      agp-edge capture --source rtsp://10.0.0.5/live --out data/cap --interval 2 --roi 640,200,256,256
      agp-edge capture --camera 0 --out data/cap --trigger mqtt://10.0.0.9/line/part --keep-similar
    """
    from agp_edge import capture as capturing
    from agp_edge.roi import parse_roi
    from agp_edge.sources import open_source
    from agp_edge.triggers import open_trigger

    uris = _uris(camera, source)
    if len(uris) > 1:
        raise InputError(f"{len(uris)} sources were given", "capture takes one, from --camera or --source")
    options = source_options(
        size=size, fps=fps, pixel_format=pixel_format, control=control, transport=transport, decode=decode,
        timeout=timeout, realtime=realtime, follow=follow,
    )  # fmt: skip
    chosen = open_source(uris[0], options)
    pace = capturing.Pace(every, interval, open_trigger(trigger) if trigger is not None else None)
    report = capturing.CaptureReport(str(out))
    stopped: list[bool] = []
    with (
        _summary_at_end(
            report.to_dict, lambda _: report.describe(), json_file, json_file, lambda: report.captured > 0
        ),
        _stopping(lambda: stopped.append(True)),
        progress_bar("capture") as progress,
    ):
        capturing.capture(
            chosen,
            out,
            frames=frames,
            pace=pace,
            roi=parse_roi(roi) if roi is not None else None,
            keep_similar=keep_similar,
            progress=progress,
            stopping=lambda: bool(stopped),
            report=report,
            on_event=lambda event: note(event.text),
        )


def stream_report(summary: dict[str, Any]) -> str:
    """What a stream prints at its end, in 80 columns: of every source the counts, the verdicts and latencies."""
    frames, verdicts = [], []
    for line in summary["sources"]:
        total = line["latency_ms"]["total"]
        times = [f"{total[p]:.2f}" if total[p] is not None else "-" for p in ("p50", "p99")]
        counts = [str(line[k]) for k in ("captured", "judged", "dropped", "failed", "reconnects")]
        name = _shorten(line["source"], SOURCE_COLUMNS)
        frames.append((name, *counts))
        verdicts.append((name, str(line["ok"]), str(line["ng"]), *times))
    seconds = summary["elapsed_ms"] / 1000
    judged = sum(line["judged"] for line in summary["sources"])
    return "\n".join(
        [
            table(frames, ("source", "captured", "judged", "dropped", "failed", "reconnects")),
            "captured = judged + dropped + failed",
            "",
            table(verdicts, ("source", "OK", "NG", "p50 ms", "p99 ms")),
            "judged = OK + NG; latency from capture to verdict",
            f"{judged} verdicts in {seconds:.1f} s, threshold {summary['threshold']:.6g}, engine {summary['engine']}",
            *(["PROVISIONAL: the threshold promises nothing"] if summary["provisional"] else []),
        ]
    )


def _introduce(judging: JudgingEngine) -> None:
    """Say what judges: its threshold and what that lacks, and that a gate did not pass it, each time it is used."""
    judge = judging.judge
    note(f"threshold {_describe(judge)}")
    if judge.conformal is not None and judge.threshold == judge.conformal.value:
        for line in judge.conformal.notes():
            note(f"warning: {line}" if judge.provisional else line)
    if judging.accepted is not None:
        note(f"warning: the gate did not pass this engine; accepted by hand: {judging.accepted}")


def _shorten(name: str, columns: int) -> str:
    """A name cut in its middle: both ends tell sources apart."""
    if len(name) <= columns:
        return name
    tail = columns // 2
    return f"{name[: columns - tail - 1]}…{name[-tail:]}"


def _uris(camera: str | None, sources: list[str]) -> list[str]:
    from agp_edge.sources import redact

    if camera is not None and not re.fullmatch("[0-9]+", camera):
        raise InputError(
            f"--camera {redact(camera)} is no camera's number",
            "give 0 for /dev/video0; a URL or a path goes to --source",
        )
    uris = ([camera] if camera is not None else []) + sources
    if not uris:
        raise InputError("no camera and no source was given", "give --camera 0 or --source URI")
    return uris


def _rate(text: str | None) -> float | None:
    from agp_edge.gate import parse_rate

    return None if text is None else parse_rate(text)


def _video_paths(video: Path | None, sources: int) -> list[Path]:
    """The annotated video of every source: FILE, or FILE-1, FILE-2 …"""
    if video is None:
        return []
    if sources == 1:
        return [video]
    return [video.with_name(f"{video.stem}-{i}{video.suffix}") for i in range(1, sources + 1)]


def _check_outputs(outputs: list[tuple[str, str | None]], engine: Path, inputs: list[str]) -> None:
    """Refuse to write over what is read, or twice into one file.

    Raises:
        InputError: an output is the engine, its sidecar, an input, or another output.
    """
    from agp_edge.engines.sidecar import sidecar_path

    taken = {engine.resolve(): "the engine", sidecar_path(engine).resolve(): "the engine's description"}
    # A URL is no path, but no file has its name either.
    taken |= {Path(uri).resolve(): "what is judged" for uri in inputs}
    for flag, output in outputs:
        if output is None or output == "-":
            continue
        path = Path(output).resolve()
        same = next((what for other, what in taken.items() if _same_file(path, other)), None)
        if same is not None:
            raise InputError(f"{flag} {output} is {same}", "give it another file")
        taken[path] = f"that of {flag} too"


def _same_file(path: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return path == other or path.samefile(other)  # By another name too, as of a hard link.
    return False


def _check_first_frame(source: Source, frame: FrameSpec) -> None:
    """Open a file and see that the engine takes its first frame.

    Raises:
        InputError: it does not open, or has another size. An image that cannot be read is left to the stream's count.
    """
    from agp_edge.sources.conform import conform

    with source:
        try:
            first = source.read()
        except MissingExtraError:
            raise
        except InputError:
            return
        if first is not None:
            conform(first.pixels, frame, source.name)


def _sinks(
    opened: contextlib.ExitStack,
    jsonl: str | None,
    rejects: Path | None,
    videos: list[Path],
    sources: list[Source],
    size_wh: tuple[int, int],
    every: int,
) -> list[Sink]:
    """The sinks that were asked for; `opened` closes them if a later one cannot be made."""
    sinks: list[Sink] = []

    def add(sink: Sink) -> None:
        opened.callback(sink.close)
        sinks.append(sink)

    if jsonl is not None:
        from agp_edge.sinks.jsonl import JsonlSink

        add(JsonlSink(jsonl))
    if rejects is not None:
        from agp_edge.sinks.rejects import RejectsSink

        add(RejectsSink(rejects))
    if videos:
        from agp_edge.sinks.video import VideoSink

        for path, source in zip(videos, sources, strict=True):
            fps = source.fps or (LIVE_FPS if source.live else STILLS_FPS)
            add(VideoSink(path, size_wh, max(fps / max(every, 1), 0.1), source.name))
    return sinks


def _describe(judge: Judge) -> str:
    if judge.conformal is None or judge.threshold != judge.conformal.value:
        return f"{judge.threshold:.6g}, set by hand"
    return judge.conformal.describe()


@contextlib.contextmanager
def _stopping(stop: Callable[[], Any]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the frame at hand be finished, a later one does not wait; both end in 130."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    first: float | None = None

    def on_signal(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            stop()
        elif now - first > IMPATIENT_S:
            raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
    if first is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _summary_at_end(
    summary: Callable[[], dict[str, Any]],
    describe: Callable[[dict[str, Any]], str],
    json_file: str | None,
    to_stdout: str | None,
    began: Callable[[], bool],
) -> Iterator[None]:
    """Print the summary however the work ended; what ended it is what the command ends with.

    An error before anything `began` stands alone: a table of zeros would only hide it.
    """
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(AgpEdgeError, OSError):
            if isinstance(error, AgpEdgeError) and not began():
                write_json_result(json_file, summary())
            else:
                _report(summary(), describe, json_file, to_stdout)
        raise
    _report(summary(), describe, json_file, to_stdout)


@contextlib.contextmanager
def _told_at_end(sinks: list[Sink]) -> Iterator[None]:
    """Say at the end what was written where."""
    try:
        yield
    finally:
        for sink in sinks:
            if text := sink.describe():
                note(text)


def _report(
    summary: dict[str, Any],
    describe: Callable[[dict[str, Any]], str],
    json_file: str | None,
    to_stdout: str | None,
) -> None:
    say(describe(summary), to_stdout)
    write_json_result(json_file, summary)
