"""Fill the tables of a document from result files, so that no figure is copied by hand.

    python -m benchmarks.tables docs/ablations.md
    python -m benchmarks.tables docs/ablations.md --check

A table stands between `<!-- table: KIND FILE -->` and `<!-- end -->`; FILE is relative to the document. A file that is not there
yet leaves the words `Not run yet.`
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agp_edge.errors import AgpEdgeError, InputError
from agp_edge.files import write_bytes
from agpnet.ablation import read_ablation
from agpnet.study import read_study
from benchmarks import (
    calibration_sets,
    contamination,
    cpu_backends,
    exposure,
    gpu_report,
    int8,
    nearest_neighbours,
    scene_watch,
    web_viewers,
)

KINDS: dict[str, Callable[[Path], str]] = {
    "ablation": lambda path: read_ablation(path).to_markdown(),
    "calibration-sets": lambda path: calibration_sets.describe(calibration_sets.read_comparison(path)),
    "cpu-backends": lambda path: cpu_backends.describe(cpu_backends.read_report(path)),
    "contamination": lambda path: contamination.describe(read_study(path)),
    "gpu": lambda path: gpu_report.describe(gpu_report.read_report(path)),
    "exposure": lambda path: exposure.describe(read_study(path)),
    "int8": lambda path: int8.describe(int8.read_report(path)),
    "int8-layers": lambda path: int8.describe_sensitivity(int8.read_report(path)),
    "nearest-neighbours": lambda path: nearest_neighbours.describe(read_study(path)),
    "scene-watch": lambda path: scene_watch.describe(scene_watch.read_report(path)),
    "web-viewers": lambda path: web_viewers.describe(web_viewers.read_report(path)),
}
"""Kind of table -> what makes it of a result file."""
NOT_RUN = "Not run yet.\n"
MARKED = re.compile(r"(<!-- table: (\S+) (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def fill(document: Path) -> str:
    """The document's text with its tables made anew.

    Raises:
        InputError: an unknown kind of table, or a file that is no study.
    """

    def table(match: re.Match[str]) -> str:
        start, kind, name, _, end = match.groups()
        if kind not in KINDS:
            raise InputError(f"{document} has a table of kind {kind!r}", f"take of: {', '.join(KINDS)}")
        results = document.parent / name
        text = KINDS[kind](results) if results.exists() else NOT_RUN
        return f"{start}\n{text}\n{end}"

    return MARKED.sub(table, document.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill or check documents; the exit code is 1 where a check finds one that is behind its results."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    behind = 0
    try:
        for document in given.documents:
            text = fill(document)
            if text == document.read_text(encoding="utf-8"):
                continue
            behind += 1
            print(f"{document} {'is behind its results' if given.check else 'was filled'}")
            if not given.check:
                write_bytes(document, text.encode())
    except AgpEdgeError as error:
        print(f"error: {error.what}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 1 if given.check and behind else 0


if __name__ == "__main__":
    sys.exit(main())
