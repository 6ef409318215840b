"""Commands about frames that end: predict, which judges files, and capture, which collects frames."""

from __future__ import annotations

from pathlib import Path

import typer

from agp_edge.cli.console import note, progress_bar, say, table, write_json_result
from agp_edge.cli.options import (
    CONTROL,
    DECODE,
    FOLLOW,
    FPS,
    JSON,
    PIXEL_FORMAT,
    REALTIME,
    SIZE,
    TIMEOUT,
    TRANSPORT,
    outside_bundles,
    source_options,
)
from agp_edge.cli.running import check_outputs, introduce, rate_of, stopping, summary_at_end, uris_of
from agp_edge.errors import InputError


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

    check_outputs([("--json", json_file)], engine, images)
    with open_judging_engine(engine, rate_of(false_reject_rate), threshold) as judging:
        introduce(judging)
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

    uris = uris_of(camera, source)
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
        summary_at_end(
            report.to_dict, lambda _: report.describe(), json_file, json_file, lambda: report.captured > 0
        ),
        stopping(lambda: stopped.append(True)),
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
