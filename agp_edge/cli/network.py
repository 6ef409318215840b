"""demo, train, export, calibrate: the host's commands, mounted by name so that a device lists them too."""

from __future__ import annotations

from pathlib import Path

import typer

from agp_edge.cli.artefacts import RUN_FILE, warn_if_interrupted
from agp_edge.cli.console import note, progress_bar, require_host, say, table, write_json_result
from agp_edge.cli.options import JSON
from agp_edge.errors import InputError


def demo(
    out: Path = typer.Option(Path("demo"), "--out", help="Folder to make; a demo that is there is replaced."),
    surface: str = typer.Option("brick", "--surface", help="Sample photograph: brick, grass or gravel."),
    steps: int | None = typer.Option(
        None, "--steps", help="Training steps; fewer are faster and worse.", min=1
    ),
    json: str | None = JSON,
) -> None:
    """Run the whole chain on sample data, from good parts to verdicts on a video. (host)

    Example:

    \b
      agp-edge demo
    """
    module = require_host("benchmarks.demo", "demo")
    result = module.run_demo(out, surface=surface, steps=steps, note=note, progress_bar=progress_bar)
    say(result.describe(), json)
    write_json_result(json, result.to_dict())


def train(
    data: Path = typer.Argument(..., metavar="DATA", help="Data set, or a folder of good images."),
    out: Path = typer.Option(
        ..., "--out", metavar="RUN", help="Folder for the run; a run that is there is replaced."
    ),
    backbone: str | None = typer.Option(
        None,
        "--backbone",
        metavar="ID|DIR|filterbank",
        help="Pretrained vision transformer, or fixed filters. Default: facebook/dino-vits16.",
    ),
    setup: str | None = typer.Option(
        None,
        "--setup",
        help="one-class or multi-class: one model for all classes. Default: by the number of classes.",
    ),
    config: Path | None = typer.Option(None, "--config", metavar="TOML", help="Hyper-parameters by name."),
    set_: list[str] = typer.Option(
        [], "--set", metavar="NAME=VALUE", help="One hyper-parameter by name, as in alpha_max=2; repeatable."
    ),
    steps: int | None = typer.Option(None, "--steps", help="Optimiser steps."),
    seed: int | None = typer.Option(None, "--seed", help="Of everything random."),
    noise: str | None = typer.Option(None, "--noise", help="guided, random or none."),
    json: str | None = JSON,
) -> None:
    """Train AGPNet on good images only. (host)

    Example:

    \b
      agp-edge train DATA --out RUN --backbone filterbank
      agp-edge train DATA --out RUN --backbone ./dino-vits16 --set alpha_max=2
    """
    module = require_host("agpnet.training", "train")
    make_config = require_host("agpnet.config", "train").make_config
    from agp_edge.datasets import load_dataset

    flags = {"backbone": backbone, "steps": steps, "seed": seed, "noise": noise}
    settings = make_config(config, **parse_settings(set_) | {k: v for k, v in flags.items() if v is not None})
    dataset = load_dataset(data)
    note(describe_setup([c.name for c in dataset.classes], setup, str(data)))
    few = module.describe_too_few(sum(len(c.train) for c in dataset.classes), settings.hold_out)
    if few is not None:
        note(f"warning: {few}")
    if settings.backbone != "filterbank" and not Path(settings.backbone).is_dir():
        note(f"asking the hub for {settings.backbone} …")
    replaces = (out / RUN_FILE).is_file()
    try:
        with progress_bar("train") as progress, progress_bar("read") as reading:
            record = module.train(dataset, settings, out, progress=progress, reading=reading)
    except KeyboardInterrupt as stop:
        # Its text says what was kept; before the first step there is nothing to say.
        if str(stop):
            note(str(stop))
        raise
    if replaces:
        note(f"replaced the run that was in {out}")
    say(
        f"{out}: {record.step} steps in {record.seconds:.0f} s on {len(record.trained)} good images, {len(record.held_out)} held out",
        json,
    )
    write_json_result(
        json,
        {
            "run": str(out),
            "step": record.step,
            "seconds": record.seconds,
            "classes": record.classes,
            "trained": len(record.trained),
            "held_out": len(record.held_out),
            "config": record.config.to_dict(),
        },
    )


def describe_setup(classes: list[str], setup: str | None, data: str) -> str:
    """Which setup the classes of a data set make, in words.

    Raises:
        InputError: an unknown setup, or one that the classes do not fit.
    """
    if setup not in (None, "one-class", "multi-class"):
        raise InputError(f"there is no setup {setup!r}", "take one-class or multi-class")
    if setup == "one-class" and len(classes) > 1:
        raise InputError(
            f"{data} has {len(classes)} classes: {', '.join(classes)}",
            f"give one of them, as in {data}/{classes[0]}, or --setup multi-class",
        )
    if len(classes) > 1:
        return f"multi-class: one model for {', '.join(classes)}"
    return f"one-class: {classes[0]}"


def parse_settings(texts: list[str]) -> dict[str, object]:
    """`NAME=VALUE` pairs as plain values: numbers, true and false, lists of numbers, else text.

    Raises:
        InputError: no `=`.
    """
    import json

    values: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{text!r} is no NAME=VALUE", "write it as --set alpha_max=2")
        try:
            values[name.strip()] = json.loads(value)
        except ValueError:
            values[name.strip()] = value.strip()
    return values


def export(
    run: Path = typer.Argument(..., metavar="RUN", help="A trained run."),
    out: Path = typer.Option(
        ..., "--out", metavar="BUNDLE", help="Folder for the bundle; a bundle that is there is replaced."
    ),
    frame_size: str | None = typer.Option(
        None,
        "--frame-size",
        metavar="WxH",
        help="The camera's frame; by default that of the training images.",
    ),
    batch: int = typer.Option(1, "--batch", metavar="N", help="Frames a call."),
    mono: bool = typer.Option(False, "--mono", help="Frames have one channel."),
    json: str | None = JSON,
) -> None:
    """Export a run to a bundle: ONNX graphs that take the camera's own frames. (host)

    Example:

    \b
      agp-edge export RUN --out brick.bundle --frame-size 640x480
    """
    module = require_host("export.onnx_export", "export")
    from agp_edge.frame import parse_frame_size

    size = parse_frame_size(frame_size) if frame_size else None
    warn_if_interrupted(run)
    replaced = describe_replaced(out)
    with progress_bar("export") as progress:
        bundle = module.export_run(run, out, frame_size=size, mono=mono, batch=batch, progress=progress)
    manifest = bundle.manifest
    rows = [(name, f"{entry['size_bytes']:,}") for name, entry in sorted(manifest.files.items())]
    say(f"{out}: frames of {manifest.frame}\n{table(rows, ('graph', 'bytes'))}", json)
    if replaced is not None:
        note(replaced)
    note(f"next: agp-edge calibrate {out} DATA")
    write_json_result(json, {"bundle": str(out), "frame": manifest.frame.to_dict(), "files": manifest.files})


def describe_replaced(out: Path) -> str | None:
    """What an export to `out` takes the place of, in words; None where there is nothing."""
    from agp_edge.bundle import MANIFEST, Manifest, is_bundle
    from agp_edge.errors import ArtefactError
    from agp_edge.files import read_json

    if not is_bundle(out):
        return None
    manifest = out / MANIFEST
    try:
        calibrated = Manifest.from_dict(
            read_json(manifest, f"manifest of bundle {out}"), str(manifest)
        ).calibrated
    except ArtefactError:
        return "replaces a bundle that was there and could not be read"
    if calibrated:
        return "replaces the calibrated bundle that was there: calibrate it again"
    return "replaces the bundle that was there"


def calibrate(
    bundle: Path = typer.Argument(
        ..., metavar="BUNDLE", help="An exported bundle; it is calibrated in place."
    ),
    data: Path = typer.Argument(..., metavar="DATA", help="The data it was trained on, or new good images."),
    frames: int = typer.Option(
        128, "--frames", metavar="N", help="At most so many frames for the INT8 ranges."
    ),
    method: str = typer.Option("max", "--method", help="max, entropy or percentile."),
    accept: str | None = typer.Option(
        None,
        "--accept",
        metavar="REASON",
        help="Keep graphs that their gate refused or could not judge, and end with 0; the reason is written into the "
        "bundle. Without it a refused graph is left out, and an earlier calibration is not replaced.",
    ),
    json: str | None = JSON,
) -> None:
    """Make the INT8 graph and the thresholds out of held-out good images. (host)

    Example:

    \b
      agp-edge calibrate brick.bundle DATA
    """
    module = require_host("calib.calibrate", "calibrate")
    from agp_edge.datasets import load_dataset

    with progress_bar("calibrate") as progress:
        result = module.calibrate(
            bundle, load_dataset(data), frames=frames, method=method, accept=accept, progress=progress
        )
    for warning in result.warnings:
        note(f"warning: {warning}")
    say(result.describe(), json)
    write_json_result(json, result.to_dict())
    result.check()
    note(f"next: agp-edge build-engine {bundle} --precision int8")
