"""The log as TensorBoard reads it, through TensorBoard's own reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agp_edge.datasets import load_dataset
from agpnet.checkpoint import Every
from agpnet.config import make_config
from agpnet.tensorboard import EventLog
from agpnet.training import train

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_that_was_broken_off_has_every_step_once(
    sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    config = replace(make_config(**tiny_settings), steps=60)

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 34:
            raise RuntimeError("as if killed: nothing is saved any more")

    data = load_dataset(sample_data)
    with pytest.raises(RuntimeError, match="as if killed"):
        train(data, config, tmp_path / "run", progress=stop, checkpoint_every=Every(steps=12))
    assert [step for step, _ in scalars(tmp_path / "run" / "training")["loss"]] == [10, 20, 30]
    # The last checkpoint is of step 24: step 30 is in the events, and comes again.
    train(data, config, tmp_path / "run", resume=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [10, 20, 30, 40, 50, 60]
    read = scalars(tmp_path / "run")
    assert set(read) == {"loss", "lr", "alpha", "rho"}
    for name, values in read.items():
        assert [step for step, _ in values] == [10, 20, 30, 40, 50, 60]
        assert [value for _, value in values] == pytest.approx([line[name] for line in log])


def test_two_starts_within_a_second_have_a_file_each(tmp_path: Path) -> None:
    for step in (0, 5):
        events = EventLog(tmp_path, step)
        events.write({"step": step + 1, "loss": 0.5})
        events.close()
        events.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert scalars(tmp_path) == {"loss": [(1, 0.5), (6, 0.5)]}
