"""The command line: a table from names to plain typed functions, each a thin call of the library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from agp_edge.cli import ablation, data, device, engine, measure, network, run, stream, trust
from agp_edge.cli.console import run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COMMANDS: dict[str, tuple[str, Callable[..., Any]]] = {
    "demo": ("Start here", network.demo),
    "doctor": ("Start here", device.doctor),
    "capture": ("From good parts to a model (host)", run.capture),
    "train": ("From good parts to a model (host)", network.train),
    "ablate": ("From good parts to a model (host)", ablation.ablate),
    "evaluate": ("From good parts to a model (host)", data.evaluate),
    "export": ("From good parts to a model (host)", network.export),
    "calibrate": ("From good parts to a model (host)", network.calibrate),
    "build-engine": ("On the device", engine.build_engine),
    "stream": ("On the device", stream.stream),
    "predict": ("On the device", run.predict),
    "benchmark": ("On the device", measure.benchmark),
    "inspect": ("Trust", data.inspect),
    "sign": ("Trust", trust.sign),
    "verify": ("Trust", trust.verify),
    "compare": ("Trust", engine.compare),
}
"""Command -> (panel of `--help`, function)."""

app = typer.Typer(
    name="agp-edge",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Trained AGPNet anomaly models on the device: from a folder of good parts to OK or NG on a live camera.",
    epilog="Exit codes: 0 done, 2 bad input, 3 a gate refused, 4 artefact corrupt or not for this machine, 5 the work could not go on, 6 an objective missed, 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        from agp_edge import __version__

        print(f"agp-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Trained AGPNet anomaly models on the device: from a folder of good parts to OK or NG on a live camera."""


for _name, (_panel, _function) in COMMANDS.items():
    app.command(_name, rich_help_panel=_panel)(_function)


def main() -> None:
    """The entry point: every error ends in its exit code, with two lines and no traceback unless `--debug`."""
    sys.exit(run_command(app, debug="--debug" in sys.argv[1:]))
