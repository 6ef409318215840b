"""Cameras whose library misbehaves, for `IsolatedSource`: what is wrong with each is real, only the picture is not."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from agp_edge.errors import InputError, MissingExtraError, SourceLostError
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.uri import redact


class Steady(Source):
    """Gives frames of 64x48 at once; the pixels are the number.

    Args:
        uri: anything.
    """

    takes = frozenset({"timeout_s", "controls"})
    live = True

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        self.name = redact(uri)
        self.fps: float | None = None
        self.uri = uri
        self.options = options
        self.number = 0

    def open(self) -> None:
        self.fps = 12.5

    def read(self) -> Frame | None:
        time.sleep(0.01)
        return self.frame(64, 48)

    def frame(self, width: int, height: int, channels: int = 3) -> Frame:
        pixels = np.full((height, width, channels), self.number % 251, np.uint8)
        number, self.number = self.number, self.number + 1
        return Frame(pixels, number, time.monotonic_ns(), time.time(), "sensor", self.name)

    def close(self) -> None:
        pass


def hold_everything() -> None:
    """Never come back, and let no other thread of Python run: as a driver does that is entered with the lock held."""
    ctypes.PyDLL(None).pause()


class HangsInOpen(Steady):
    def open(self) -> None:
        hold_everything()


class HangsInRead(Steady):
    """After five frames."""

    def read(self) -> Frame | None:
        if self.number == 5:
            hold_everything()
        return super().read()


class HangsInClose(Steady):
    def close(self) -> None:
        hold_everything()


class Crashes(Steady):
    """After five frames, as C does."""

    def read(self) -> Frame | None:
        if self.number == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().read()


class Grows(Steady):
    """Each frame is larger than the one before, until it starts anew; every other one is mono."""

    def read(self) -> Frame | None:
        time.sleep(0.01)
        size = 16 * (1 + self.number % 20)
        return self.frame(2 * size, size, 3 if self.number % 2 else 1)


class Floods(Steady):
    """As fast as it can; a frame in ten cannot be read."""

    def read(self) -> Frame | None:
        time.sleep(0.0002)
        if self.number % 10 == 9:
            self.number += 1
            raise InputError(f"frame {self.number - 1} of {self.name} is broken", "clean the lens")
        return self.frame(64, 48)


class Lost(Steady):
    """After three frames, in words of its own."""

    def read(self) -> Frame | None:
        if self.number == 3:
            raise SourceLostError(f"{self.name} fell over", "pick it up")
        return super().read()


class Absent(Steady):
    def open(self) -> None:
        raise MissingExtraError("gevcam", "genicam", "a camera of this kind")


class Wrong(Steady):
    def open(self) -> None:
        raise InputError(f"there is no {self.name}", "buy one")


class Chatters(Steady):
    """Its library prints the URL, and fails with it in the text."""

    def open(self) -> None:
        print(self.uri, flush=True)
        print(self.uri, file=sys.stderr, flush=True)
        os.write(2, self.uri.encode())

    def read(self) -> Frame | None:
        os.write(1, self.uri.encode())
        os.write(2, self.uri.encode())
        if self.number == 3:
            raise RuntimeError(f"cannot read {self.uri}")
        return super().read()


class SaysGoodbye(Steady):
    """Writes into the file that the control `note` names when it is closed."""

    def close(self) -> None:
        Path(self.options.controls["note"]).write_text("goodbye")
