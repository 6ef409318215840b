"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agp_edge.cli.console import check_json_target

if TYPE_CHECKING:
    from agp_edge.engines import RunOptions


def outside_bundles(target: Path | None) -> Path | None:
    """Refuse to write into a bundle; give the target back, as typer's callbacks do.

    Raises:
        InputError: it is or lies in one.
    """
    from agp_edge.bundle import refuse_inside_bundle

    if target is not None and str(target) != "-":
        refuse_inside_bundle(Path(target))
    return target


JSON = typer.Option(
    None, "--json", metavar="FILE", help="Write the result as JSON; - for stdout.", callback=check_json_target
)

PROVE = typer.Option(
    None,
    "--prove",
    metavar="RATE",
    help="Demand that the 95 % bound of the flip rate is at most this, as in 0.5%.",
)
FLIPS = typer.Option(
    None,
    "--flips",
    metavar="DIR",
    help="Where to put NAME.refused: the frames that a gate refuses it for, with both maps; by default beside it.",
    callback=outside_bundles,
)

MEMORY = typer.Option(
    "auto",
    "--memory",
    metavar="KIND",
    help="How a frame comes to a GPU: pinned (copied), mapped (read where it lies), or auto.",
)
NO_CUDA_GRAPHS = typer.Option(
    False, "--no-cuda-graphs", help="Queue every kernel on a GPU anew, not a frame's run by one call."
)
SPIN_WAIT = typer.Option(
    False, "--spin-wait", help="Wait for a GPU without sleeping: some microseconds less, and a core is busy."
)


def run_options(memory: str, no_cuda_graphs: bool, spin_wait: bool) -> RunOptions:
    """The three above as the engines take them.

    Raises:
        InputError: there is no such memory.
    """
    from agp_edge.engines import RunOptions

    options = RunOptions(memory=memory, cuda_graphs=not no_cuda_graphs, spin_wait=spin_wait)
    options.check()
    return options
