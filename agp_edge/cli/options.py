"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path

import typer

from agp_edge.cli.console import check_json_target


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
