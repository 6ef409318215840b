"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import typer

from agp_edge.cli.console import check_json_target

JSON = typer.Option(
    None, "--json", metavar="FILE", help="Write the result as JSON; - for stdout.", callback=check_json_target
)
