"""A picture that is frozen, covered, blurred or exposed otherwise: told once, and when it is over; and nothing of what is usual."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.events import Event
from agp_edge.scene import FROZEN_S, HOLD_S, SceneReference, SceneWatch, measure_picture

cv2 = pytest.importorskip("cv2")
Pixels = NDArray[np.uint8]
Take = Callable[[int], Pixels]


def clouds(seed: int, sigma: float) -> NDArray[np.float32]:
    """[160, 240, 3] of mean 0 and deviation 15, as coarse as sigma."""
    soft = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (160, 240, 3)), (0, 0), sigma)
    even: NDArray[np.float32] = ((soft - soft.mean()) / soft.std() * 15).astype(np.float32)
    return even


TEXTURE = 110 + clouds(0, 1.2) + clouds(1, 10)
"""A surface with detail that blur takes away, and with some that it does not."""


@cache
def noise_of(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (120, 160, 3)).astype(np.float32)


def shot(
    number: int,
    gain: float = 1.0,
    blur: float = 0.0,
    even: bool = False,
    noise: float = 2.0,
    channels: int = 3,
) -> Pixels:
    """[120, 160, C] uint8: what a camera sees of that surface, a little elsewhere each time."""
    rng = np.random.default_rng(number)
    y, x = rng.integers(0, 40), rng.integers(0, 80)
    scene = np.full((120, 160, 3), 60, np.float32) if even else TEXTURE[y : y + 120, x : x + 160]
    if blur:
        scene = cv2.GaussianBlur(scene, (0, 0), blur)
    seen = (scene * gain + noise * noise_of(number % 37))[..., :channels]
    pixels: Pixels = np.clip(seen, 0, 255).round().astype(np.uint8)
    return pixels


GOOD = SceneReference.measure(shot(1000 + i) for i in range(40))


class Line:
    """A watch, its events, and a clock at 5 frames a second."""

    def __init__(self, reference: SceneReference | None = GOOD) -> None:
        self.events: list[Event] = []
        self.watch = SceneWatch(reference, self.events.append, "camera")
        self.frame = 0

    def run(self, seconds: float, take: Take, fps: float = 5.0) -> list[str]:
        """Look for so long; the kinds of the events that befell."""
        before = len(self.events)
        for _ in range(round(seconds * fps)):
            self.frame += 1
            self.now_ns = getattr(self, "now_ns", 0) + round(1e9 / fps)
            self.watch.look(take(self.frame), self.now_ns)
        return [event.kind for event in self.events[before:]]


def faulty(**fault: float) -> Take:
    return lambda n: shot(n, **fault)  # type: ignore[arg-type]


FAULTS: list[tuple[str, Take]] = [
    ("covered", faulty(gain=0.02)),
    ("covered", faulty(even=True)),
    ("covered", lambda n: np.zeros((120, 160, 3), np.uint8)),
    ("covered", lambda n: np.full((120, 160, 3), 255, np.uint8)),
    ("blurred", faulty(blur=4)),
    ("exposure", faulty(gain=0.7)),
    ("exposure", faulty(gain=1.3)),
]


def test_figures() -> None:
    even = measure_picture(np.full((120, 160, 3), 60, np.uint8))
    assert even == pytest.approx((60, 0, 0))
    sharp, soft, dark = (measure_picture(shot(1, **how, noise=0)) for how in ({}, {"blur": 3}, {"gain": 0.5}))
    assert soft.sharpness < 0.3 * sharp.sharpness
    # Light changes brightness and contrast, not sharpness.
    assert dark.brightness == pytest.approx(0.5 * sharp.brightness, rel=0.02)
    assert dark.contrast == pytest.approx(0.5 * sharp.contrast, rel=0.05)
    assert dark.sharpness == pytest.approx(sharp.sharpness, rel=0.1)
    assert measure_picture(shot(1, channels=1)).brightness == pytest.approx(110, abs=5)
    # A large picture is measured small: noise of single pixels is no detail.
    noise = np.random.default_rng(0).normal(100, 10, (720, 1280, 1)).round().astype(np.uint8)
    assert measure_picture(noise).contrast == pytest.approx(10 / 4, rel=0.1)
    assert measure_picture(np.zeros((1, 4000, 1), np.uint8)) == (0, 0, 0)


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_a_fault_is_told_once_and_when_it_is_over(kind: str, fault: Take) -> None:
    line = Line()
    assert line.run(20, shot) == []
    assert line.run(HOLD_S - 2, fault) == []
    # After half a minute a picture that is black to the bit may still be that of a covered lens, and no frozen one.
    assert line.run(FROZEN_S + 10, fault) == [kind]
    assert line.watch.wrong == [kind]
    assert line.run(20, shot) == ["scene-good"]
    assert line.watch.wrong == []
    told, over = line.events
    assert (told.source, told.level, over.level) == ("camera", "warning", "info")
    assert told.text.startswith("camera: the picture is ")
    assert over.data["was"] == kind
    assert over.data["seconds"] == pytest.approx(HOLD_S - 2 + FROZEN_S + 10, abs=1.5)
    if kind != "covered":
        (figure,) = {"brightness", "sharpness"} & set(told.data)
        low, high = told.data["good"]
        assert not low <= told.data[figure] <= high


@pytest.mark.parametrize("fault", [fault for _, fault in FAULTS])
def test_a_moment_is_nothing(fault: Take) -> None:
    """A hand before the lens, a flash: less than the time that it takes."""
    line = Line()
    line.run(20, shot)
    for _ in range(5):
        assert line.run(HOLD_S / 2, fault) == []
        assert line.run(HOLD_S / 2, shot) == []


def test_what_is_usual_is_nothing() -> None:
    """A tenth more or less light, coming and going; noise; parts that lie elsewhere. Ten minutes of it."""
    line = Line()

    def take(n: int) -> Pixels:
        return shot(n, gain=1 + 0.1 * np.sin(n / 97), noise=1 + n % 4)

    assert line.run(600, take) == []


def test_two_things_at_once_are_told_each() -> None:
    line = Line()
    line.run(10, shot)
    assert sorted(line.run(20, faulty(blur=4, gain=0.7, noise=1))) == ["blurred", "exposure"]
    # A lens that is covered says nothing of light or focus: neither is over.
    assert line.run(20, faulty(even=True)) == ["covered"]
    assert line.run(20, faulty(blur=4, gain=0.7, noise=1)) == ["scene-good"]
    assert line.watch.wrong == ["blurred", "exposure"]
    assert line.run(20, shot) == ["scene-good", "scene-good"]


def test_at_the_limit_nothing_flutters() -> None:
    line = Line()
    limit = 0.8 * GOOD.brightness[1] / GOOD.brightness[2]
    kinds = line.run(300, lambda n: shot(n, gain=limit * (1 + 0.03 * np.sin(n / 40))))
    assert kinds in ([], ["exposure"])


def test_a_frozen_picture_and_its_end() -> None:
    line = Line()
    line.run(20, shot)
    still = shot(7)
    assert line.run(FROZEN_S - 2, lambda n: still) == []
    assert line.run(30, lambda n: still) == ["frozen"]
    # One picture that is another, as at a key picture of a network camera, is no end.
    assert line.run(0.2, shot) == []
    assert line.run(60, lambda n: still) == []
    assert line.run(10, shot) == ["scene-good"]
    assert line.events[-1].data["was"] == "frozen"


def test_a_difference_of_one_bit_is_no_freeze() -> None:
    line = Line()

    def take(n: int) -> Pixels:
        pixels = shot(7)
        pixels[3, 5, 1] ^= n & 1  # Where no sample is taken.
        return pixels

    assert line.run(2 * FROZEN_S, take) == []


def test_a_camera_that_repeats_frames_is_not_frozen() -> None:
    """In poor light: every picture is there for 10 s."""
    line = Line()
    assert line.run(300, lambda n: shot(n // 50)) == []


def test_a_source_may_write_again_where_its_frame_was() -> None:
    line = Line()
    buffer = shot(0)

    def take(n: int) -> Pixels:
        np.copyto(buffer, shot(n))
        return buffer

    assert line.run(2 * FROZEN_S, take) == []


def test_slow_triggers() -> None:
    """A frame in 10 s: 5 s are no 8 looks."""
    line = Line()
    line.run(200, shot, fps=0.1)
    assert line.run(70, faulty(gain=0.6), fps=0.1) == []
    assert line.run(20, faulty(gain=0.6), fps=0.1) == ["exposure"]


def test_no_more_looks_than_five_a_second() -> None:
    taken: list[int] = []
    line = Line()

    class Counted(SceneWatch):
        def _compare(self, *args: object) -> None:
            taken.append(line.now_ns)

    line.watch = Counted(GOOD, line.events.append, "camera")
    line.run(10, shot, fps=120)
    assert 45 <= len(taken) <= 50
    assert min(b - a for a, b in pairwise(taken)) >= 200_000_000


def test_without_a_reference_a_freeze_is_seen_and_nothing_else() -> None:
    line = Line(None)
    for _, fault in FAULTS[4:]:
        assert line.run(20, fault) == []
    assert line.run(FROZEN_S + 5, lambda n: TEXTURE.clip(0, 255).astype(np.uint8)) == ["frozen"]
