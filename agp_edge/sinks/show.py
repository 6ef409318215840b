"""A window with the frames, their heat maps and verdicts, where there is a screen."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import InputError, quote
from agp_edge.extras import import_cv2
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sinks.show_window import HEAD, READY

MOST_FPS = 20.0
LARGEST_WH = (1280, 720)
START_S = 30.0
STUCK_S = 2.0
"""For so long the window's process may take nothing before it is ended."""

AGAIN_S = 5.0
"""Between two tries to have a window again."""

TAIL_BYTES = 4096
_DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY")
_PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_", "XAUTHORITY", "XDG_", "DBUS_SESSION_BUS_ADDRESS", "QT_", "GDK_", "GTK_",
    "LD_LIBRARY_PATH", "VIRTUAL_ENV", *_DESKTOP,
)  # fmt: skip
"""How variables begin that the window's process gets; passwords of cameras may be in others."""


class ShowSink(Sink):
    """A window for each source (and region of interest), in a process of its own; q, Esc or its cross closes them all.

    At most 20 pictures a second are drawn of a source, no larger than 1280x720; an NG is drawn always. When the display goes
    away that is an error, and a window is tried again every 5 s.

    Raises:
        InputError: OpenCV here has no windows, there is no desktop, or it cannot be reached.
        MissingExtraError: OpenCV is not installed.
    """

    name = "--show"
    wants = "pictures"

    def __init__(self) -> None:
        check_windows()
        self._shown: dict[str, float] = {}
        self._pictures = 0
        self._closed_by_hand = False
        self._again_at = 0.0
        self._why = InputError("the window is not open yet", "wait")
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def write(self, judgement: Judgement) -> None:
        """Show the frame, if it is time for one.

        Raises:
            InputError: the window is gone, by no person's hand.
        """
        if self._closed_by_hand:
            return
        title = f"agp-edge {judgement.source}{'' if judgement.roi is None else f' {judgement.roi[0]}'}"
        now = time.monotonic()
        if judgement.verdict == "OK" and now - self._shown.get(title, -1.0) < 1 / MOST_FPS:
            return
        self._shown[title] = now
        if self._process is None:
            if now < self._again_at:
                raise self._why
            self._start()
        picture = _fitting(judgement.annotated())
        height, width = picture.shape[:2]
        name = title.encode()
        self._send(HEAD.pack(len(name), height, width) + name + picture.tobytes())
        self._pictures += not self._closed_by_hand

    def close(self) -> None:
        """Close the windows."""
        self._end(goodbye_s=1.0)

    def describe(self) -> str:
        """How many pictures were shown."""
        return f"{self._pictures} pictures shown" if self._pictures else ""

    def _start(self) -> None:
        """Have a process with a window.

        Raises:
            InputError: there is none to be had.
        """
        environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agp_edge.sinks.show_window"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Python looks for modules in the working directory first.
            cwd="/",
            env=environment,
            # Ctrl-C is the stream's; the windows end with it.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        ready = select.select([self._process.stdout], [], [], START_S)[0]
        if not (ready and self._process.stdout.readline() == READY):
            self._fail("cannot be opened")
        os.set_blocking(self._process.stdin.fileno(), False)

    def _send(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        left = memoryview(data)
        try:
            while left:
                if not select.select([], [pipe], [], STUCK_S)[1]:
                    self._process.kill()
                    self._fail("does not answer")
                left = left[os.write(pipe, left) :]
        except BrokenPipeError:
            if self._process.wait() == 0:
                self._closed_by_hand = True
                self._end(goodbye_s=0)
            else:
                self._fail("is gone")

    def _fail(self, what: str) -> None:
        """End the process and raise what is to be said of it."""
        assert self._process is not None
        assert self._process.stderr is not None
        self._process.kill()
        self._process.wait()
        os.set_blocking(self._process.stderr.fileno(), False)
        said = (
            (self._process.stderr.read() or b"")[-TAIL_BYTES:].decode(errors="replace").strip().splitlines()
        )
        why = next(
            (line for line in said if "connect" in line or "display" in line.lower()),
            said[-1] if said else "",
        )
        self._end(goodbye_s=0)
        self._again_at = time.monotonic() + AGAIN_S
        self._why = InputError(
            f"the window of --show {what}{': ' if why else ''}{quote(why)}",
            "see that DISPLAY names a desktop that this user may use, or look at the page of --web",
        )
        raise self._why

    def _end(self, goodbye_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(goodbye_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_windows() -> None:
    """See that OpenCV here can open windows, and that there is a desktop to open them on.

    Raises:
        InputError: it cannot, or there is none.
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = import_cv2("a window")
    gui = next(
        (line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")),
        "GUI: NONE",
    )
    if not hasattr(cv2, "imshow") or gui.split()[-1] == "NONE":
        raise InputError(
            f"OpenCV {cv2.__version__} here is built without windows",
            "take the other package: pip uninstall opencv-python-headless; pip install opencv-python; or look at --web",
        )
    if not any(os.environ.get(name) for name in _DESKTOP):
        raise InputError(
            "there is no desktop for --show: neither DISPLAY nor WAYLAND_DISPLAY is set",
            "start it in a desktop session, or by ssh -X, or look at the page of --web",
        )


def _fitting(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, made smaller where it is larger than a window."""
    height, width = picture.shape[:2]
    scale = min(LARGEST_WH[0] / width, LARGEST_WH[1] / height)
    if scale >= 1:
        return picture
    cv2 = import_cv2("a window")
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smaller: NDArray[np.uint8] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return smaller
