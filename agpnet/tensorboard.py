"""The log of a training as TensorBoard reads it: event files, one a start of the program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agp_edge.errors import MissingExtraError

PATTERN = "events.out.tfevents.*"


class EventLog:
    """Writes scalars for TensorBoard: `tensorboard --logdir RUN`.

    Args:
        folder: where the event file goes.
        step: the step that is gone on from; what an earlier file says of later steps no longer counts.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingExtraError("tensorboardX", "host", "a log for TensorBoard") from error
        # The suffix keeps two starts within one second apart, and in their order.
        self._writer: Any = SummaryWriter(
            logdir=str(folder), filename_suffix=f".{step:08}", purge_step=step + 1 if step else None
        )

    def write(self, line: Mapping[str, float]) -> None:
        """One line of the log: every value but `step`, at that step."""
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(line["step"]))

    def flush(self) -> None:
        """Bring what was written to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Write out and close; safe to call twice."""
        self._writer.close()
