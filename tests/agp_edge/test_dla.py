from __future__ import annotations

import pytest

from agp_edge.dla import why_no_dla


@pytest.mark.parametrize(
    "version", ["10.8.0.43", "10.13.3", "10.16.2", "11.0", "11.3.1", "11.4", "11.4.0.106"]
)
def test_versions_that_drive_none(version: str) -> None:
    assert (why_no_dla(version) or "").startswith(f"TensorRT {version} drives no DLA of a Jetson: 10.7 was")


@pytest.mark.parametrize(
    "version", [None, "", "unknown", "8.6.2", "10.3.0", "10.7.0.23", "11.4.1", "11.5", "12.0.0"]
)
def test_versions_that_may(version: str | None) -> None:
    assert why_no_dla(version) is None
