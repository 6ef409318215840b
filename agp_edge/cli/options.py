"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agp_edge.cli.console import check_json_target
from agp_edge.errors import InputError

if TYPE_CHECKING:
    from agp_edge.engines import RunOptions
    from agp_edge.sources import SourceOptions


def outside_bundles(target: Path | None) -> Path | None:
    """Refuse to write into a bundle; give the target back, as typer's callbacks do.

    Raises:
        InputError: it is or lies in one.
    """
    from agp_edge.bundle import refuse_inside_bundle

    if target is not None and str(target) != "-":
        refuse_inside_bundle(Path(target))
    return target


JSON = typer.Option(
    None, "--json", metavar="FILE", help="Write the result as JSON; - for stdout.", callback=check_json_target
)

PROVE = typer.Option(
    None,
    "--prove",
    metavar="RATE",
    help="Demand that the 95 % bound of the flip rate is at most this, as in 0.5%.",
)
FLIPS = typer.Option(
    None,
    "--flips",
    metavar="DIR",
    help="Where to put NAME.refused: the frames that a gate refuses it for, with both maps; by default beside it.",
    callback=outside_bundles,
)

_CAMERAS = "What a source is told"
_GPU = "On a GPU"

MEMORY = typer.Option(
    "auto",
    "--memory",
    metavar="KIND",
    help="How a frame comes to a GPU: pinned (copied), mapped (read where it lies), or auto.",
    rich_help_panel=_GPU,
)
NO_CUDA_GRAPHS = typer.Option(
    False,
    "--no-cuda-graphs",
    help="Queue every kernel on a GPU anew, not a frame's run by one call.",
    rich_help_panel=_GPU,
)
SPIN_WAIT = typer.Option(
    False,
    "--spin-wait",
    help="Wait for a GPU without sleeping: some microseconds less, and a core is busy.",
    rich_help_panel=_GPU,
)


def run_options(memory: str, no_cuda_graphs: bool, spin_wait: bool) -> RunOptions:
    """The three above as the engines take them.

    Raises:
        InputError: there is no such memory.
    """
    from agp_edge.engines import RunOptions

    options = RunOptions(memory=memory, cuda_graphs=not no_cuda_graphs, spin_wait=spin_wait)
    options.check()
    return options


SIZE = typer.Option(
    None,
    "--size",
    metavar="WxH",
    help="Frame size that the camera is asked for, as in 1280x720.",
    rich_help_panel=_CAMERAS,
)
FPS = typer.Option(
    None,
    "--fps",
    metavar="N",
    help="Frames a second that the camera is asked for.",
    rich_help_panel=_CAMERAS,
)
PIXEL_FORMAT = typer.Option(
    None,
    "--pixel-format",
    metavar="NAME",
    help="As the camera calls it: MJPG, YUYV, Mono12.",
    rich_help_panel=_CAMERAS,
)
CONTROL = typer.Option(
    [],
    "--control",
    metavar="NAME=VALUE",
    help="A control by the camera's own name, as in exposure_time_absolute=200; repeatable.",
    rich_help_panel=_CAMERAS,
)
TRANSPORT = typer.Option(
    "tcp",
    "--transport",
    metavar="tcp|udp",
    help="How RTSP comes.",
    rich_help_panel=_CAMERAS,
)
DECODE = typer.Option(
    "auto",
    "--decode",
    metavar="WHERE",
    help="Where RTSP is decoded: auto, hardware, software.",
    rich_help_panel=_CAMERAS,
)
TIMEOUT = typer.Option(
    5.0,
    "--timeout",
    metavar="SECONDS",
    help="A camera that gives no frame for longer is lost; default 5.",
    rich_help_panel=_CAMERAS,
)
REALTIME = typer.Option(
    False,
    "--realtime",
    help="A video file plays as it was recorded, and the newest frame wins.",
    rich_help_panel=_CAMERAS,
)
FOLLOW = typer.Option(
    False,
    "--follow",
    help="Watch a folder for new images, for ever.",
    rich_help_panel=_CAMERAS,
)


def source_options(
    *,
    size: str | None = None,
    fps: float | None = None,
    pixel_format: str | None = None,
    control: Sequence[str] = (),
    transport: str = "tcp",
    decode: str = "auto",
    timeout: float = 5.0,
    realtime: bool = False,
    follow: bool = False,
) -> SourceOptions:
    """The nine above as the sources take them; each source says itself which of them it heeds.

    Raises:
        InputError: a value that is none.
    """
    from agp_edge.frame import parse_frame_size
    from agp_edge.sources.options import SourceOptions, cast_decode, cast_transport

    for value, flag in ((fps, "--fps"), (timeout, "--timeout")):
        # Written so that a NaN is refused, too; a year is longer than anybody waits.
        if value is not None and not 0 < value < 3.2e7:
            raise InputError(f"{flag} {value:g} is none", "give a number above 0")
    return SourceOptions(
        size_wh=parse_frame_size(size) if size is not None else None,
        fps=fps,
        pixel_format=pixel_format,
        controls=_controls(control),
        transport=cast_transport(transport),
        decode=cast_decode(decode),
        timeout_s=timeout,
        realtime=realtime,
        follow=follow,
    )


def _controls(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` each, in the order in which they are to be set.

    Raises:
        InputError: one is none, or a name is there twice.
    """
    controls: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise InputError(f"--control {text} is none", "write NAME=VALUE, as in gain=4")
        if name in controls:
            raise InputError(f"--control {name} was given twice", "give each control once")
        controls[name] = value
    return controls
