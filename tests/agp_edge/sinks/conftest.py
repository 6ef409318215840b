"""What the tests of sinks share: a judgement, and disks that can be filled."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import DiskFullError
from agp_edge.sinks import Judgement, Sink
from agp_edge.verdict import Region

STAGES = ("capture", "queue", "transfer", "compute", "post", "total")
WALL_S = 1_769_999_999.123


@pytest.fixture
def judgement(part: Callable[..., NDArray[np.uint8]]) -> Judgement:
    """An NG frame, 64x48, whose bright square is the region."""
    anomaly_map = np.full((6, 8), 0.3, np.float32)
    anomaly_map[2:4, 3:5] = 0.98
    return Judgement(
        pixels=part(0, defect=True),
        anomaly_map=anomaly_map,
        wall_s=WALL_S,
        clock="arrival",
        source="rtsp://admin:***@10.0.0.5/live",
        frame=42,
        verdict="NG",
        score=0.98,
        threshold=0.4,
        p_value=0.01,
        regions=[Region(24, 16, 16, 16, 0.98)],
        latency_ms=dict.fromkeys(STAGES, 1.5),
        engine="0123456789ab",
    )


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk_of("1m")`: a folder on a real file system of that size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        made = shutil.which("mount") and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        )
        if not made or made.returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def fill() -> Callable[[Sink, Iterable[Judgement]], int]:
    """`fill(sink, judgements)`: write until the disk is full; how many were written."""

    def write(sink: Sink, judgements: Iterable[Judgement]) -> int:
        for written, judgement in enumerate(judgements):
            try:
                sink.write(judgement)
            except DiskFullError:
                return written
        pytest.fail("the disk was never full")

    return write
