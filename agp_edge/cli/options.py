"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import typer

from agp_edge.cli.console import check_json_target

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
)
