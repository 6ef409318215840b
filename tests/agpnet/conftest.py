"""What every test of the network shares."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The networks of these tests are too small to share out, and bits depend on the number of threads."""
    torch.set_num_threads(1)
