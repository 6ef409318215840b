"""`doctor`: what this machine can do, and how to get the rest."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from agp_edge.cli.console import say, write_json_result
from agp_edge.cli.options import JSON

if TYPE_CHECKING:
    from agp_edge.deploy.doctor import Diagnosis


def doctor(
    json_file: str | None = JSON,
) -> None:
    """Say what this machine can do, and how to get the rest.

    \b
    Example:
      agp-edge doctor
      agp-edge doctor --json doctor.json
    """
    from agp_edge.deploy.doctor import diagnose

    diagnosis = diagnose()
    write_json_result(json_file, diagnosis.to_dict())
    say(describe_diagnosis(diagnosis), json_file)


def describe_diagnosis(diagnosis: Diagnosis) -> str:
    """The findings for a person, in at most 80 columns; a command stands unbroken on a line of its own."""
    name_width = max(len(check.name) for check in diagnosis.checks) + 2
    state_width = len("not here") + 2
    indent = " " * (name_width + state_width)
    lines = [f"{'check':<{name_width}}{'state':<{state_width}}detail", "-" * 80]
    for check in diagnosis.checks:
        start = f"{check.name:<{name_width}}{check.state:<{state_width}}"
        lines.append(_fill(start + check.detail, indent))
        if check.remedy:
            lines.append(f"{indent}$ {check.remedy}")
    return "\n".join([*lines, "-" * 80, _fill(diagnosis.summary(), "  ")])


def _fill(text: str, indent: str) -> str:
    return textwrap.fill(text, 80, subsequent_indent=indent, break_on_hyphens=False)
