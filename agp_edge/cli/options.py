"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import typer

JSON = typer.Option(None, "--json", metavar="FILE", help="Write the result as JSON; - for stdout.")
