"""demo, train, export, calibrate: the host's commands, mounted by name so that a device lists them too."""

from __future__ import annotations

from pathlib import Path
from shlex import quote as quote_text
from typing import TYPE_CHECKING, Any

import typer

from agp_edge.cli.artefacts import RUN_FILE, warn_if_interrupted
from agp_edge.cli.console import note, progress_bar, require_host, say, table, write_json_result
from agp_edge.cli.options import FLIPS, JSON, PROVE, outside_bundles
from agp_edge.errors import InputError

if TYPE_CHECKING:
    from agp_edge.datasets import Dataset


def demo(
    out: Path = typer.Option(
        Path("demo"),
        "--out",
        help="Folder to make; a demo that is there is replaced.",
        callback=outside_bundles,
    ),
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
        ...,
        "--out",
        metavar="RUN",
        help="Folder for the run; a finished run that is there is replaced.",
        callback=outside_bundles,
    ),
    backbone: str | None = typer.Option(
        None,
        "--backbone",
        metavar="ID|DIR|filterbank",
        help="Pretrained vision transformer or CNN, or fixed filters. Default: facebook/dino-vits16.",
    ),
    setup: str | None = typer.Option(
        None,
        "--setup",
        help="multi-class: one model for all classes. one-class: one for each, in RUN/CLASS. "
        "Default: by the number of classes.",
    ),
    shots: int | None = typer.Option(
        None,
        "--shots",
        metavar="K",
        help="Learn from K good images a class, chosen by content and seed.",
        min=1,
    ),
    config: Path | None = typer.Option(None, "--config", metavar="TOML", help="Hyper-parameters by name."),
    set_: list[str] = typer.Option(
        [], "--set", metavar="NAME=VALUE", help="One hyper-parameter by name, as in alpha_max=2; repeatable."
    ),
    steps: int | None = typer.Option(None, "--steps", help="Optimiser steps."),
    epochs: int | None = typer.Option(None, "--epochs", help="Passes over the images, instead of --steps."),
    seed: int | None = typer.Option(None, "--seed", help="Of everything random."),
    noise: str | None = typer.Option(None, "--noise", help="guided, random or none."),
    augment: str | None = typer.Option(
        None,
        "--augment",
        help="none, flips, jitter, both, or camera. Default: jitter with --shots, else none.",
    ),
    robust: str | None = typer.Option(
        None,
        "--robust",
        help="off, images or patches: no weight for what looks unlike all other good images.",
    ),
    device: str | None = typer.Option(None, "--device", help="auto, cpu or cuda."),
    precision: str | None = typer.Option(None, "--precision", help="fp32, bf16 or fp16."),
    compile_: bool | None = typer.Option(
        None, "--compile/--no-compile", help="torch.compile: slow to begin, then faster on a GPU."
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="Go on from the last checkpoint in RUN, to the same weights as without the break.",
    ),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Begin again although RUN holds a training that is not finished."
    ),
    checkpoint_every: str = typer.Option(
        "auto",
        "--checkpoint-every",
        metavar="N|Ns",
        help="Steps, or seconds as in 60s; auto costs less than 1 % of the time.",
    ),
    json: str | None = JSON,
) -> None:
    """Train AGPNet on good images only. (host)

    Example:

    \b
      agp-edge train DATA --out RUN --backbone filterbank
      agp-edge train DATA --out RUN --backbone ./dino-vits16 --set alpha_max=2
      agp-edge train DATA --out RUN --backbone filterbank --resume
    """
    module = require_host("agpnet.training", "train")
    make_config = require_host("agpnet.config", "train").make_config
    from agp_edge.datasets import load_dataset
    from agp_edge.datasets.enclosing import refuse_tests_of_enclosing

    every = require_host("agpnet.checkpoint", "train").parse_every(checkpoint_every)
    flags = {
        "backbone": backbone, "setup": setup, "shots": shots, "steps": steps, "epochs": epochs, "seed": seed, "noise": noise,
        "augment": augment, "robust": robust, "device": device, "precision": precision, "compile": compile_,
    }  # fmt: skip
    settings = make_config(config, **parse_settings(set_) | {k: v for k, v in flags.items() if v is not None})
    dataset = load_dataset(data)
    refuse_tests_of_enclosing(dataset)
    names = [c.name for c in dataset.classes]
    each = settings.setup == "one-class" and len(names) > 1
    note(describe_setup(names, settings.setup))
    _warn_if_few(dataset, settings, each)
    if settings.backbone != "filterbank" and not Path(settings.backbone).is_dir():
        note(f"asking the hub for {settings.backbone} …")
    replaces = (out / RUN_FILE).is_file() and not resume
    options = {"resume": resume, "overwrite": overwrite, "checkpoint_every": every, "note": note}
    try:
        if each:
            setups = require_host("agpnet.setups", "train")
            result = setups.train_each(dataset, settings, out, progress_bar=progress_bar, **options)
            say(result.describe(), json)
            write_json_result(
                json,
                {
                    "runs": {name: describe_run(out / name, record) for name, record in result.runs.items()},
                    "failed": {name: error.what for name, error in result.failed.items()},
                },
            )
            result.check()
            return
        with progress_bar("train") as progress, progress_bar("read") as reading:
            record = module.train(dataset, settings, out, progress=progress, reading=reading, **options)
    except KeyboardInterrupt as stop:
        # Its text says what was kept; before the first step there is nothing to say.
        if str(stop):
            note(str(stop))
        raise
    if replaces:
        note(f"replaced the run that was in {out}")
    suspects = record.describe_suspects()
    if suspects is not None:
        note(suspects)
    say(record.describe(out), json)
    write_json_result(json, describe_run(out, record))


def describe_run(out: Path, record: Any) -> dict[str, Any]:
    """What `--json` says of a run.

    Args:
        out: its folder.
        record: its `agpnet.run.RunRecord`.
    """
    return {
        "run": str(out),
        "step": record.step,
        "seconds": record.seconds,
        "classes": record.classes,
        "trained": len(record.trained),
        "held_out": len(record.held_out),
        "shots": record.shots,
        "suspects": [vars(suspect) for suspect in record.suspects],
        "config": record.config.to_dict(),
    }


def _warn_if_few(dataset: Dataset, settings: Any, each: bool) -> None:
    """Say before the training that a gate will lack images."""
    describe = require_host("agpnet.selection", "train").describe_too_few
    counts = {c.name: len(c.train) for c in dataset.classes}
    for name, n in counts.items() if each else [("", sum(counts.values()))]:
        few = describe(n, settings.hold_out, settings.shots)
        if few is not None:
            note(f"warning: {name + ': ' if name else ''}{few}")


def describe_setup(classes: list[str], setup: str) -> str:
    """Which setup the classes of a data set make, in words.

    Args:
        classes: their names.
        setup: `one-class`, `multi-class`, or `auto`: by the number of classes.
    """
    if len(classes) == 1:
        return f"{'one-class' if setup == 'auto' else setup}: {classes[0]}"
    if setup == "one-class":
        return f"one-class: a model each for {', '.join(classes)}"
    return f"multi-class: one model for {', '.join(classes)}"


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
    graphs = [name for name in sorted(manifest.files) if name.endswith(".onnx")]
    rows = [(name, f"{manifest.files[name]['size_bytes']:,}") for name in graphs]
    scored = f"{len(manifest.frames_of('reference'))} reference frames, scored by torch"
    say(f"{out}: frames of {manifest.frame}; {scored}\n{table(rows, ('graph', 'bytes'))}", json)
    if replaced is not None:
        note(replaced)
    note(f"next: agp-edge calibrate {quote(out)} DATA")
    write_json_result(json, {"bundle": str(out), "frame": manifest.frame.to_dict(), "files": manifest.files})


def quote(path: Path) -> str:
    """A path as a shell takes it."""
    return quote_text(str(path))


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
        128,
        "--frames",
        metavar="N",
        help="At most so many frames for the INT8 ranges, and as many for the search.",
    ),
    choice: str = typer.Option(
        "random", "--choice", help="How they are chosen: random, k-centre (unlike each other) or first."
    ),
    seed: int = typer.Option(0, "--seed", help="Of that choice."),
    method: str = typer.Option("max", "--method", help="max, entropy or percentile."),
    quantise: str = typer.Option(
        "search",
        "--quantise",
        help="Layers that INT8 takes: as many as the gate's allowance permits on search frames, or all.",
    ),
    keep: list[str] = typer.Option(
        [],
        "--keep",
        metavar="LAYER",
        help="Leave this layer out of INT8, as in decoder.blocks.0; repeatable.",
    ),
    sensitivity: bool = typer.Option(
        False, "--sensitivity", help="Measure and print what each layer alone costs and saves."
    ),
    frames_outside: bool = typer.Option(
        False,
        "--frames-outside",
        help="Keep hashes of the held-out frames in the bundle, not the frames: a build on the device then asks for --data.",
    ),
    accept: str | None = typer.Option(
        None,
        "--accept",
        metavar="REASON",
        help="Keep graphs that their gate refused or could not judge, and end with 0; the reason is written into the "
        "bundle. Without it a refused graph is left out, and an earlier calibration is not replaced.",
    ),
    prove: str | None = PROVE,
    flips: Path | None = FLIPS,
    json: str | None = JSON,
) -> None:
    """Make the INT8 graph and the thresholds out of held-out good images. (host)

    Images that are certainly test images are refused. With few shots and nothing held out, thresholds are provisional.

    Example:

    \b
      agp-edge calibrate brick.bundle DATA
      agp-edge calibrate brick.bundle DATA --frames 64 --method percentile
    """
    module = require_host("calib.calibrate", "calibrate")
    from agp_edge.datasets import load_dataset
    from agp_edge.gate import parse_rate

    with progress_bar("calibrate") as progress:
        result = module.calibrate(
            bundle,
            load_dataset(data),
            frames=frames,
            choice=choice,
            seed=seed,
            method=method,
            frames_outside=frames_outside,
            quantise=quantise,
            keep=keep,
            sensitivity=sensitivity,
            accept=accept,
            prove=parse_rate(prove) if prove is not None else None,
            flips=flips,
            progress=progress,
        )
    for warning in result.warnings:
        note(f"warning: {warning}")
    say(result.describe(), json)
    write_json_result(json, result.to_dict())
    result.check()
    again = any(report.outcome != "passed" for report in result.reports.values())
    precision = next(p for p in ("int8", "fp16", "fp32") if p in result.bundle.manifest.precisions)
    more = (" --data DATA" if frames_outside else "") + (" --accept REASON" if again else "")
    note(f"next: agp-edge build-engine {quote(bundle)} --precision {precision}{more}")
