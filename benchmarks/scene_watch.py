"""What the watch over the picture tells of real pictures: false alarms in hours of what is usual, and which faults it finds.

    python -m benchmarks.scene_watch scene_watch.json --minutes 30 --episodes 4

Scenes are scikit-image's photographs, brought to 640x360. Good frames, as a bundle has them, are 40 of each: other light (±3 %),
another place (±8 pixels, of the surfaces anywhere), noise of 2 levels. What is usual is more than that: light that goes up and
down by 10 %, places up to ±12 pixels away, noise of 1 to 4 levels, JPEG of quality 90 in every other session. A fault begins
in the middle of that. Frames come 2 a second, on a clock that is simulated; intervals are Clopper-Pearson's, 95 %.

Where ffmpeg is installed: a still scene under noise, coded by x264 as a network camera does, and for how long the decoded
frames are alike to the bit. A watch for frozen pictures must wait for longer.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cli.console import run_command, write_json_result
from agp_edge.errors import ArtefactError, InputError
from agp_edge.events import Event, nobody
from agp_edge.extras import import_cv2
from agp_edge.files import read_json
from agp_edge.machine import describe_machine
from agp_edge.scene import FROZEN_S, SceneReference, SceneWatch, measure_picture
from agp_edge.verdict import beta_quantile

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

WIDTH, HEIGHT = 640, 360
MARGIN = 16
FPS = 2
GOOD_FRAMES = 40
NOISES = 24
"""Fields of noise that are drawn once: a new one for each frame would take most of the time."""
SCENES = (
    "astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
SURFACES = frozenset({"brick", "grass", "gravel"})
"""Those that go on beyond the picture: each frame is of another place of it, as of another part."""
STILL_S, STILL_FPS, KEY_S = 24, 15, 10
LARGER = 2
"""A surface is so many times as large as what the camera sees of it."""
SETTLE_S, FAULT_S, AFTER_S = 10, 15, 15


@dataclass(frozen=True)
class Fault:
    """Something that happens to a camera.

    Attributes:
        kinds: events that tell of it; any one of them is a find.
        change: of the light that falls in, [H, W, 3] grey levels.
        seconds: how long it lasts.
        still: the same frame comes again and again.
    """

    kinds: frozenset[str]
    change: Callable[[Floats], Floats]
    seconds: float = FAULT_S
    still: bool = False


def blur(sigma: float) -> Callable[[Floats], Floats]:
    """Out of focus, by that many pixels of the 640."""

    def change(light: Floats) -> Floats:
        soft: Floats = import_cv2("the benchmark").GaussianBlur(light, (0, 0), sigma)
        return soft

    return change


def gain(factor: float) -> Callable[[Floats], Floats]:
    """More light or less."""
    return lambda light: light * np.float32(factor)


def cloth(level: float, shade: float) -> Callable[[Floats], Floats]:
    """Something even before the lens, lighter on one side than on the other by twice the shade."""
    row = np.linspace(level - shade, level + shade, WIDTH, dtype=np.float32)
    return lambda light: np.broadcast_to(row[None, :, None], light.shape)


COVERED, BLURRED, EXPOSURE = frozenset({"covered"}), frozenset({"blurred"}), frozenset({"exposure"})
FAULTS: dict[str, Fault] = {
    "light off": Fault(COVERED, gain(0.03)),
    "covered, even": Fault(COVERED, cloth(90, 4)),
    "covered, shaded by ±25 levels": Fault(COVERED | BLURRED, cloth(90, 25)),
    "defocus, sigma 0.3 % of the width": Fault(BLURRED, blur(2)),
    "defocus, sigma 0.6 %": Fault(BLURRED, blur(4)),
    "defocus, sigma 1.2 %": Fault(BLURRED, blur(8)),
    "light -30 %": Fault(EXPOSURE, gain(0.7)),
    "light +30 %": Fault(EXPOSURE, gain(1.3)),
    "light -50 %": Fault(EXPOSURE, gain(0.5)),
    "frozen": Fault(frozenset({"frozen"}), gain(1), FROZEN_S + 10, still=True),
}


class Camera:
    """Takes frames of one scene.

    Args:
        scene: of `SCENES`.
        rng: of everything that varies.
    """

    def __init__(self, scene: str, rng: np.random.Generator) -> None:
        import skimage.data

        cv2 = import_cv2("the benchmark")
        picture = np.asarray(getattr(skimage.data, scene)(), np.uint8)
        colour = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., 2::-1]
        times = LARGER if scene in SURFACES else 1
        need = times * WIDTH + 2 * MARGIN, times * HEIGHT + 2 * MARGIN
        scale = max(need[0] / colour.shape[1], need[1] / colour.shape[0])
        size = max(need[0], round(colour.shape[1] * scale)), max(need[1], round(colour.shape[0] * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        self._light = cv2.resize(np.ascontiguousarray(colour), size, interpolation=how).astype(np.float32)
        self._anywhere = scene in SURFACES
        self._rng = rng
        self._noises = [rng.normal(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32) for _ in range(NOISES)]

    def take(
        self,
        light: float,
        noise: float,
        shift: int,
        change: Callable[[Floats], Floats] | None = None,
        jpeg: bool = False,
    ) -> Pixels:
        """A frame, [360, 640, 3] uint8 BGR."""
        rng, (rows, columns) = self._rng, self._light.shape[:2]
        if self._anywhere:
            y, x = rng.integers(0, rows - HEIGHT + 1), rng.integers(0, columns - WIDTH + 1)
        else:
            y, x = np.array([rows - HEIGHT, columns - WIDTH]) // 2 + rng.integers(-shift, shift + 1, 2)
        seen = self._light[y : y + HEIGHT, x : x + WIDTH]
        if change is not None:
            seen = change(seen)
        grain = self._noises[rng.integers(NOISES)]
        pixels: Pixels = np.clip(seen * np.float32(light) + np.float32(noise) * grain, 0, 255).astype(
            np.uint8
        )
        if jpeg:
            cv2 = import_cv2("the benchmark")
            pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], 1)
        return pixels


class Session:
    """A watch over one camera, and a clock.

    Args:
        camera: takes the frames.
        reference: what good frames are like.
        number: of the session: it says how light comes and goes, how much noise there is, and whether there is JPEG.
    """

    def __init__(self, camera: Camera, reference: SceneReference, number: int) -> None:
        self.events: list[Event] = []
        self.frames = 0
        self._camera = camera
        self._watch = SceneWatch(reference, self.events.append, "camera")
        self._period = 60.0 + 37 * (number % 7)
        self._noise = 1.0 + number % 4
        self._jpeg = number % 2 == 1
        self._phase = number * 2.399963

    def run(self, seconds: float, fault: Fault | None = None) -> list[str]:
        """Look for so long; kinds of the events."""
        before = len(self.events)
        still: Pixels | None = None
        for _ in range(round(seconds * FPS)):
            self.frames += 1
            if still is None or fault is None or not fault.still:
                light = 1 + 0.1 * np.sin(self._phase + 2 * np.pi * self.frames / FPS / self._period)
                change = None if fault is None else fault.change
                still = self._camera.take(float(light), self._noise, 12, change, self._jpeg)
            self._watch.look(still, self.frames * 1_000_000_000 // FPS)
        return [event.kind for event in self.events[before:]]


def measure_scene(
    scene: str, minutes: float, episodes: int, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of one scene: what was told in so many minutes of what is usual, and what of each fault."""
    camera = Camera(scene, rng)
    good = SceneReference.measure(
        camera.take(float(rng.uniform(0.97, 1.03)), 2, 8) for _ in range(GOOD_FRAMES)
    )
    usual = {"frames": 0, "events": 0}
    # Ten minutes each: light comes and goes otherwise, and noise is another.
    sessions = max(1, round(minutes / 10))
    for number in range(sessions):
        session = Session(camera, good, number)
        session.run(minutes * 60 / sessions)
        usual["frames"] += session.frames
        usual["events"] += len(session.events)
    faults = {}
    for name, fault in FAULTS.items():
        found = over = others = 0
        for number in range(episodes):
            session = Session(camera, good, 100 + number)
            others += len(session.run(SETTLE_S + number))
            told = session.run(fault.seconds, fault)
            after = session.run(AFTER_S)
            seen = bool(fault.kinds & set(told))
            found += seen
            # The fault is over, and so is all that was told.
            over += seen and after.count("scene-good") == len(told) - told.count("scene-good")
        faults[name] = {"episodes": episodes, "found": found, "over": over, "before": others}
    return {"good": good.to_dict(), **usual}, faults


def measure(minutes: float, episodes: int, seed: int = 0) -> dict[str, Any]:
    """Measure every scene.

    Args:
        minutes: of what is usual, for each scene.
        episodes: of each fault, for each scene.
        seed: of everything that varies.

    Raises:
        InputError: a number that is none.
    """
    if minutes < 1 or episodes < 1:
        raise InputError(f"{minutes:g} minutes and {episodes} episodes say nothing", "give 1 or more of each")
    rng = np.random.default_rng(seed)
    scenes, faults = {}, {}
    for scene in SCENES:
        scenes[scene], faults[scene] = measure_scene(scene, minutes, episodes, rng)
    total = {
        name: {
            key: sum(faults[scene][name][key] for scene in SCENES) for key in ("episodes", "found", "over")
        }
        for name in FAULTS
    }
    frames = sum(scene["frames"] for scene in scenes.values())
    events = sum(scene["events"] for scene in scenes.values())
    # What befell before a fault began was an alarm of what is usual, too.
    before = sum(fault["before"] for scene in faults.values() for fault in scene.values())
    return {
        "benchmark": "scene_watch",
        "minutes": minutes,
        "episodes": episodes,
        "seed": seed,
        "size": [WIDTH, HEIGHT],
        "machine": describe_machine(),
        "usual": {"frames": frames, "hours": frames / FPS / 3600, "events": events, "before_faults": before},
        "faults": {name: {**row, "interval_95": interval(row["found"], row["episodes"])} for name, row in total.items()},
        "scenes": {name: {**scenes[name], "faults": faults[name]} for name in SCENES},
        "look_ms": time_a_look(rng),
        "still": still_runs(rng),
        "key_picture_s": KEY_S,
    }  # fmt: skip


def still_runs(rng: np.random.Generator) -> list[dict[str, float]]:
    """For how long a still scene is the same to the bit behind x264; empty without ffmpeg."""
    if shutil.which("ffmpeg") is None:
        return []
    camera = Camera("astronaut", rng)
    rows = []
    for noise, crf in itertools.product((0.5, 2.0, 4.0), (28, 35)):
        frames = [camera.take(1, noise, 0) for _ in range(STILL_S * STILL_FPS)]
        raw = ["-f", "rawvideo", "-pix_fmt", "bgr24"]
        coder = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-crf", str(crf)]
        key = ["-g", str(KEY_S * STILL_FPS), "-keyint_min", str(KEY_S * STILL_FPS), "-sc_threshold", "0"]
        given = [*raw, "-s", f"{WIDTH}x{HEIGHT}", "-r", str(STILL_FPS), "-i", "-"]
        call = ["ffmpeg", "-v", "error", *given, *coder, *key, "-f", "h264", "-"]
        coded = subprocess.run(
            call, input=b"".join(f.tobytes() for f in frames), stdout=subprocess.PIPE, check=True
        )
        call = ["ffmpeg", "-v", "error", "-f", "h264", "-i", "-", *raw, "-"]
        decoded = subprocess.run(call, input=coded.stdout, stdout=subprocess.PIPE, check=True).stdout
        size = WIDTH * HEIGHT * 3
        marks = [zlib.crc32(decoded[at : at + size]) for at in range(0, len(decoded), size)]
        longest = max(len(list(group)) for _, group in itertools.groupby(marks))
        rows.append({"noise": noise, "crf": crf, "seconds": round(longest / STILL_FPS, 2)})
    return rows


def interval(events: int, n: int) -> list[float]:
    """Clopper-Pearson's 95 % interval of a share."""
    low = beta_quantile(0.025, events, n - events + 1) if events else 0.0
    high = beta_quantile(0.975, events + 1, n - events) if events < n else 1.0
    return [round(low, 4), round(high, 4)]


def time_a_look(rng: np.random.Generator, looks: int = 200) -> dict[str, float]:
    """Median milliseconds of a look at 1280x720 BGR, and of the figures alone."""
    frames = [rng.integers(0, 256, (720, 1280, 3), np.uint8) for _ in range(4)]
    watch = SceneWatch(SceneReference.measure(frames), nobody, "camera")
    took: dict[str, list[float]] = {"look": [], "figures": []}
    for number in range(looks):
        start = time.perf_counter()
        watch.look(frames[number % 4], number * 1_000_000_000)
        middle = time.perf_counter()
        measure_picture(frames[number % 4])
        took["look"].append(middle - start)
        took["figures"].append(time.perf_counter() - middle)
    return {name: round(float(np.median(times)) * 1000, 4) for name, times in took.items()}


def read_report(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ArtefactError: it is none of this benchmark.
    """
    report = read_json(path, "benchmark of the watch over the picture")
    if report.get("benchmark") != "scene_watch":
        raise ArtefactError(f"{path} is no result of benchmarks.scene_watch", "give the file that it wrote")
    return report


def describe(report: dict[str, Any]) -> str:
    """The document as Markdown."""
    usual = report["usual"]
    # Exact Poisson: with no event in so many hours the rate is below 3 / hours.
    events, hours = usual["events"], usual["hours"]
    bound = f", so below {3 / hours:.2g} an hour (95 %)" if not events else ""
    lines = [
        f"{len(report['scenes'])} scenes, {usual['frames']} frames in {hours:.0f} hours of what is usual: "
        f"{events} events{bound}. A look at 1280x720 takes {report['look_ms']['look']:.2f} ms.",
        "",
        "| fault | found | 95 % interval | over when it was over |",
        "|---|---|---|---|",
    ]
    for name in FAULTS:
        row = report["faults"][name]
        low, high = row["interval_95"]
        lines.append(
            f"| {name} | {row['found']} of {row['episodes']} | {low:.1%} to {high:.1%} | {row['over']} of {row['found']} |"
        )
    if report["still"]:
        longest = max(row["seconds"] for row in report["still"])
        lines += [
            "",
            f"A still scene behind x264 with a key picture every {report['key_picture_s']} s was the same to the bit for up to "
            f"{longest:.1f} s ({len(report['still'])} settings of noise and quality).",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scene_watch", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", metavar="OUT.json")
    parser.add_argument(
        "--minutes", type=float, default=30, help="of what is usual, for each scene (%(default)s)"
    )
    parser.add_argument("--episodes", type=int, default=4, help="of each fault, for each scene (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that varies")
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        report = measure(given.minutes, given.episodes, given.seed)
        write_json_result(given.out, report)
        print(describe(report), file=sys.stderr if given.out == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
