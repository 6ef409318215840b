"""From the camera's frame to the network's input, against arithmetic written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agp_edge.frame import FrameSpec
from agpnet.front import FrameFront, pool_factor


def resize_linear(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """[H, W] by half-pixel centres and linear weights, as ONNX's Resize has it."""
    for axis in (0, 1):
        n = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, n - 1)
        weight = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        image = np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
    return image


def by_hand(frame: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """[H, W, C] -> [3, size, size]: pool by the largest whole divisor, resize, BGR to RGB, 0 to 1."""
    height, width, channels = frame.shape
    fy, fx = (max(k for k in range(1, max(n // size, 1) + 1) if n % k == 0) for n in (height, width))
    pooled = frame.astype(np.float64).reshape(height // fy, fy, width // fx, fx, channels).mean(axis=(1, 3))
    order = (2, 1, 0) if channels == 3 else (0, 0, 0)
    return np.stack([resize_linear(pooled[:, :, c], size) for c in order]) / 255


@pytest.mark.parametrize(
    ("width", "height", "channels"),
    [(64, 64, 3), (640, 480, 3), (640, 480, 1), (192, 108, 3), (197, 131, 3), (40, 50, 1), (128, 64, 3)],
)
def test_it_is_the_arithmetic_written_out(width: int, height: int, channels: int) -> None:
    spec = FrameSpec(width, height, channels)
    frames = np.random.default_rng(0).integers(0, 256, (2, *spec.shape), np.uint8)
    got = FrameFront(spec, 64)(torch.from_numpy(frames)).numpy()
    assert got.shape == (2, 3, 64, 64)
    for i in range(2):
        np.testing.assert_allclose(got[i], by_hand(frames[i], 64), atol=2e-6)


def test_bgr_becomes_rgb_and_grey_three_equal_channels() -> None:
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    frame[..., 0], frame[..., 2] = 255, 51  # A blue frame with a little red.
    red, green, blue = FrameFront(FrameSpec(32, 32, 3), 32)(torch.from_numpy(frame))[0]
    assert (red.unique().tolist(), green.unique().tolist(), blue.unique().tolist()) == (
        [pytest.approx(0.2)],
        [0],
        [1],
    )
    grey = np.arange(32 * 32, dtype=np.uint8).reshape(1, 32, 32, 1)
    mono = FrameFront(FrameSpec(32, 32, 1), 32)(torch.from_numpy(grey))[0]
    assert torch.equal(mono[0], mono[1])
    assert torch.equal(mono[0], mono[2])
    colour = FrameFront(FrameSpec(32, 32, 3), 32)(torch.from_numpy(grey.repeat(3, axis=3)))[0]
    assert torch.equal(mono, colour), "a grey picture in either form is the same input"


@pytest.mark.parametrize("size", [64, 480, 640, 720, 1080, 1920, 1944, 2048, 3840, 65, 1919, 30])
def test_pooling_divides_the_frame_and_leaves_enough(size: int) -> None:
    factor = pool_factor(size, 64)
    assert size % factor == 0, "no row of pixels is cut off"
    assert factor == 1 or size // factor >= 64
    assert all(size % k for k in range(factor + 1, size // 64 + 1)), "a larger factor would do"


def test_every_pixel_counts_where_the_frame_is_a_multiple() -> None:
    spec = FrameSpec(256, 128, 3)
    base = torch.zeros(1, *spec.shape, dtype=torch.uint8)
    front = FrameFront(spec, 64)
    for y, x in ((0, 0), (127, 255), (63, 100)):
        changed = base.clone()
        changed[0, y, x, 1] = 255
        assert front(changed).sum().item() == pytest.approx(1 / (2 * 4))
