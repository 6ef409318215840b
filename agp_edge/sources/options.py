"""What can be told to a source beside its URI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from agp_edge.errors import InputError

Transport = Literal["tcp", "udp"]
Decode = Literal["auto", "hardware", "software"]


@dataclass(frozen=True)
class SourceOptions:
    """How a source is opened; what is None is left as the camera has it.

    A kind of source names in `takes` those that mean something to it, and is never given others.

    Attributes:
        size_wh: (width, height) in pixels.
        fps: frames a second.
        pixel_format: as the camera calls it: `MJPG`, `YUYV`, `Mono12`.
        controls: name -> value, as the camera calls them: `exposure_time_absolute`, `Gain`.
        transport: how RTSP comes.
        decode: where a network camera's pictures are decoded; `hardware` is refused where there is none.
        timeout_s: without a frame for longer a camera is lost.
        realtime: a video file comes as fast as it was recorded, and the newest frame wins, as with a camera.
        follow: a folder is watched for new files, for ever.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str | None = None
    controls: Mapping[str, str] = field(default_factory=dict)
    transport: Transport = "tcp"
    decode: Decode = "auto"
    timeout_s: float = 5.0
    realtime: bool = False
    follow: bool = False

    def given(self) -> list[str]:
        """Names of those that differ from what they are by default."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(AS_IT_IS, f.name)]

    def describe(self) -> str:
        """What was given, as on a command line without the dashes."""
        said = []
        for name in self.given():
            value = getattr(self, name)
            if name == "size_wh":
                value = f"{value[0]}x{value[1]}"
            elif name == "controls":
                value = ",".join(f"{control}={setting}" for control, setting in value.items())
            flag = FLAGS[name].removeprefix("--")
            said.append(
                flag
                if value is True
                else f"{flag} {value:g}"
                if isinstance(value, float)
                else f"{flag} {value}"
            )
        return ", ".join(said)

    def check(self, name: str, takes: frozenset[str]) -> None:
        """Refuse what a source cannot heed.

        Args:
            name: the source, as it may be shown.
            takes: names of the attributes that it heeds.

        Raises:
            InputError: another one was given.
        """
        for given in self.given():
            if given not in takes:
                able = ", ".join(FLAGS[t] for t in FLAGS if t in takes) or "nothing"
                raise InputError(
                    f"{FLAGS[given]} does not apply to {name}",
                    f"it takes {able}; what only another source takes goes to that one: [[source]] in --config",
                )

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for another process; `from_dict` reads it."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"controls": dict(self.controls)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SourceOptions:
        """Read what `to_dict` wrote."""
        size = value["size_wh"]
        return cls(**{**value, "size_wh": None if size is None else (int(size[0]), int(size[1]))})


AS_IT_IS = SourceOptions()
"""Nothing is told to the source."""

FLAGS = {
    "size_wh": "--size",
    "fps": "--fps",
    "pixel_format": "--pixel-format",
    "controls": "--control",
    "transport": "--transport",
    "decode": "--decode",
    "timeout_s": "--timeout",
    "realtime": "--realtime",
    "follow": "--follow",
}
"""Attribute -> the flag that sets it."""


def cast_transport(text: str) -> Transport:
    """A transport by name.

    Raises:
        InputError: there is no such one.
    """
    return cast(Transport, _one_of(text, "--transport", get_args(Transport)))


def cast_decode(text: str) -> Decode:
    """A way to decode by name.

    Raises:
        InputError: there is no such one.
    """
    return cast(Decode, _one_of(text, "--decode", get_args(Decode)))


def _one_of(text: str, flag: str, names: tuple[str, ...]) -> str:
    if text not in names:
        raise InputError(f"{flag} {text} is none", f"take one of: {', '.join(names)}")
    return text
