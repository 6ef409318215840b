"""What the studies here share as commands: the options that every one takes, and their progress."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def study_parser(name: str, purpose: str | None) -> argparse.ArgumentParser:
    """A parser with what every study takes: `data`, `out`, `backbone`, `classes`, `seeds`, `steps` and `settings`.

    Args:
        name: of its module in `benchmarks`.
        purpose: the module's docstring; the first line describes the command.
    """
    assert purpose is not None  # Only `python -OO` takes docstrings away.
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=purpose.splitlines()[0])
    parser.add_argument("data", type=Path, help="data set with labelled test images")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="gone on with where it is there")
    parser.add_argument("--backbone", default="filterbank")
    parser.add_argument("--classes", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of a training; the backbone's own number by default")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=JSON")
    return parser


def tell_progress(done: int, total: int, note: str = "") -> None:
    """A line on stderr for each training that is done."""
    print(f"{done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)
