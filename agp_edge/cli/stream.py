"""stream: what runs on the line."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agp_edge.cli.console import note, progress_bar
from agp_edge.cli.options import (
    CONTROL,
    DECODE,
    FOLLOW,
    FPS,
    JSON,
    MEMORY,
    NO_CUDA_GRAPHS,
    PIXEL_FORMAT,
    REALTIME,
    SIZE,
    SPIN_WAIT,
    TIMEOUT,
    TRANSPORT,
    outside_bundles,
    run_options,
    source_options,
)
from agp_edge.cli.running import (
    check_outputs,
    introduce,
    rate_of,
    stopping,
    summary_at_end,
    told_at_end,
    uris_of,
)
from agp_edge.cli.stream_config import SourceConfig, as_defaults, given_sources, sources_of
from agp_edge.cli.stream_report import say_check, stream_log_line, stream_report
from agp_edge.cli.stream_sinks import SinkOptions, make_sinks
from agp_edge.cli.telling import Teller
from agp_edge.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from agp_edge.deploy.supervisor import Supervisor
    from agp_edge.events import Event
    from agp_edge.frame import FrameSpec
    from agp_edge.progress import Progress
    from agp_edge.sources import Source
    from agp_edge.stream import Feed, Stream
    from agp_edge.triggers import Trigger

_SOURCES = "Sources"
_JUDGING = "Judging"
_SINKS = "Where verdicts go"
_RUNNING = "Running for months"


def stream(
    context: typer.Context,
    camera: str | None = typer.Option(
        None, "--camera", metavar="N", help="A camera by number: 0 is /dev/video0.", rich_help_panel=_SOURCES
    ),
    source: list[str] = typer.Option(
        [],
        "--source",
        help="A camera, URL, video file, image, folder or glob; may be given several times.",
        rich_help_panel=_SOURCES,
    ),
    size: str | None = SIZE,
    fps: float | None = FPS,
    pixel_format: str | None = PIXEL_FORMAT,
    control: list[str] = CONTROL,
    transport: str = TRANSPORT,
    decode: str = DECODE,
    timeout: float = TIMEOUT,
    realtime: bool = REALTIME,
    follow: bool = FOLLOW,
    engine: Path | None = typer.Option(
        None, "--engine", help="The engine that judges.", rich_help_panel=_JUDGING
    ),
    roi: list[str] = typer.Option(
        [],
        "--roi",
        metavar="[NAME=]X,Y",
        help="Judge the part of the frame at X,Y that has the engine's size; several are judged each for itself.",
        rich_help_panel=_JUDGING,
    ),
    mask: Path | None = typer.Option(
        None, "--mask", metavar="PNG", help="What is white in it never counts.", rich_help_panel=_JUDGING
    ),
    min_area: int = typer.Option(
        0, "--min-area", metavar="PIXELS", help="Smaller regions make no frame NG.", rich_help_panel=_JUDGING
    ),
    false_reject_rate: str | None = typer.Option(
        None,
        "--false-reject-rate",
        metavar="RATE",
        help="Share of good frames that may be rejected, 0.01 or 1%; default 1%.",
        rich_help_panel=_JUDGING,
    ),
    threshold: float | None = typer.Option(
        None, "--threshold", help="A threshold set by hand instead.", rich_help_panel=_JUDGING
    ),
    every: int = typer.Option(
        1, "--every", help="Judge every N-th frame of a source.", rich_help_panel=_JUDGING
    ),
    frames: int | None = typer.Option(
        None, "--frames", help="Stop after N verdicts.", rich_help_panel=_JUDGING
    ),
    trigger: str | None = typer.Option(
        None,
        "--trigger",
        metavar="URL",
        help="Judge one frame for each trigger: mqtt://BROKER/TOPIC, http://HOST:PORT/PATH, gpio://CHIP/LINE.",
        rich_help_panel=_JUDGING,
    ),
    trigger_wait: float = typer.Option(
        5.0,
        "--trigger-wait",
        metavar="SECONDS",
        help="A trigger without a frame for longer is missed.",
        rich_help_panel=_JUDGING,
    ),
    batch_wait: float | None = typer.Option(
        None,
        "--batch-wait",
        metavar="MS",
        help="How long a frame waits for others, where the engine takes several at once; default 5.",
        rich_help_panel=_JUDGING,
    ),
    memory: str = MEMORY,
    no_cuda_graphs: bool = NO_CUDA_GRAPHS,
    spin_wait: bool = SPIN_WAIT,
    jsonl: str | None = typer.Option(
        None,
        "--jsonl",
        help="Append a JSON line for every verdict; - is stdout.",
        callback=outside_bundles,
        rich_help_panel=_SINKS,
    ),
    jsonl_rotate: str | None = typer.Option(
        None,
        "--jsonl-rotate",
        metavar="SIZE",
        help="Begin another file at this size, as in 100M.",
        rich_help_panel=_SINKS,
    ),
    jsonl_keep: int | None = typer.Option(
        None,
        "--jsonl-keep",
        metavar="N",
        help="How many rotated files stay; default 10.",
        rich_help_panel=_SINKS,
    ),
    jsonl_fsync: str = typer.Option(
        "never",
        "--jsonl-fsync",
        metavar="POLICY",
        help="When lines are safe from a power cut: never (as the kernel does), every, or seconds.",
        rich_help_panel=_SINKS,
    ),
    rejects: Path | None = typer.Option(
        None,
        "--rejects",
        help="Folder for NG frames with heat map and verdict.",
        callback=outside_bundles,
        rich_help_panel=_SINKS,
    ),
    rejects_limit: str | None = typer.Option(
        None,
        "--rejects-limit",
        metavar="SIZE",
        help="What they may take on disk, as in 20G; the oldest go.",
        rich_help_panel=_SINKS,
    ),
    video: Path | None = typer.Option(
        None,
        "--video",
        help="Annotated video: .webm or .mp4; with several sources one file each, FILE-1, FILE-2 …",
        callback=outside_bundles,
        rich_help_panel=_SINKS,
    ),
    video_segment: float | None = typer.Option(
        None,
        "--video-segment",
        metavar="SECONDS",
        help="Begin another file after so long.",
        rich_help_panel=_SINKS,
    ),
    video_limit: str | None = typer.Option(
        None,
        "--video-limit",
        metavar="SIZE",
        help="What the segments may take on disk; the oldest go.",
        rich_help_panel=_SINKS,
    ),
    mqtt: str | None = typer.Option(
        None,
        "--mqtt",
        metavar="URL",
        help="Verdicts and events to a broker: mqtt://HOST/PREFIX.",
        rich_help_panel=_SINKS,
    ),
    prometheus: str | None = typer.Option(
        None,
        "--prometheus",
        metavar="HOST:PORT",
        help="Serve /metrics and /health; :9100 is this machine alone.",
        rich_help_panel=_SINKS,
    ),
    opcua: str | None = typer.Option(
        None,
        "--opcua",
        metavar="URL",
        help="An OPC UA server: opc.tcp://HOST:PORT/PATH.",
        rich_help_panel=_SINKS,
    ),
    modbus: str | None = typer.Option(
        None,
        "--modbus",
        metavar="HOST:PORT",
        help="A Modbus TCP server with verdicts and counts.",
        rich_help_panel=_SINKS,
    ),
    web: str | None = typer.Option(
        None,
        "--web",
        metavar="HOST:PORT",
        help="A live page; :8080 is this machine alone.",
        rich_help_panel=_SINKS,
    ),
    web_token: str | None = typer.Option(
        None,
        "--web-token",
        metavar="${NAME}",
        help="What changes on the page take, from the environment or ${file:PATH}.",
        rich_help_panel=_SINKS,
    ),
    web_name: list[str] = typer.Option(
        [],
        "--web-name",
        metavar="HOST",
        help="Another name of the page, as behind a proxy.",
        rich_help_panel=_SINKS,
    ),
    on_ng: list[str] = typer.Option(
        [],
        "--on-ng",
        metavar="COMMAND",
        help="Run a command for each NG, or pulse gpio://CHIP/LINE.",
        rich_help_panel=_SINKS,
    ),
    show: bool = typer.Option(
        False, "--show", help="A window, where OpenCV has a display.", rich_help_panel=_SINKS
    ),
    give_up: float | None = typer.Option(
        None,
        "--give-up",
        metavar="SECONDS",
        help="End with exit 5 when a camera is lost for longer; without it, it is tried again for ever.",
        rich_help_panel=_RUNNING,
    ),
    wait: bool = typer.Option(
        False,
        "--wait",
        help="Wait for a camera that is not there at the start, as after a boot; without it that is an error.",
        rich_help_panel=_RUNNING,
    ),
    healthy_within: float = typer.Option(
        30.0,
        "--healthy-within",
        metavar="SECONDS",
        help="Without a verdict for longer, /health says no.",
        rich_help_panel=_RUNNING,
    ),
    log_format: str = typer.Option(
        "text",
        "--log-format",
        metavar="text|json",
        help="How events are told on stderr.",
        rich_help_panel=_RUNNING,
    ),
    config: Path | None = typer.Option(
        None,
        "--config",
        metavar="TOML",
        help="A file with these flags by name, see docs/stream.md; what is given here goes before.",
        callback=as_defaults,
        is_eager=True,
        rich_help_panel=_RUNNING,
    ),
    check: bool = typer.Option(
        False,
        "--check",
        help="Say whether it could run like this, and open no camera.",
        rich_help_panel=_RUNNING,
    ),
    json_file: str | None = JSON,
) -> None:
    """Judge the frames of cameras and files, live: the newest frame wins, and a lost camera is waited for.

    SIGTERM ends it with 0, SIGHUP has the engine opened anew.

    Examples:

    \b
      agp-edge stream --camera 0 --engine E --jsonl verdicts.jsonl
      agp-edge stream --source rtsp://10.0.0.5/live --engine E --rejects ng
    """
    from agp_edge.deploy.supervisor import Supervisor
    from agp_edge.judging import open_judging_engine
    from agp_edge.stream import BATCH_WAIT_MS, Stream, check_batch_wait, check_feeds
    from agp_edge.triggers import open_trigger

    how_run = run_options(memory, no_cuda_graphs, spin_wait)
    # The engine that a SIGHUP brings is opened as the first one: what was asked for holds for it too.
    open_engine = partial(
        open_judging_engine,
        false_reject_rate=rate_of(false_reject_rate), threshold=threshold, options=how_run,
    )  # fmt: skip
    wait_ms = BATCH_WAIT_MS if batch_wait is None else batch_wait
    check_batch_wait(wait_ms)
    _check_numbers(trigger_wait, give_up, healthy_within, min_area, every, trigger)
    teller = Teller(log_format)
    if engine is None:
        raise InputError("no engine was given", "give --engine NAME.engine, as build-engine made it")
    if jsonl == "-" and json_file == "-":
        raise InputError("--jsonl and --json both go to stdout", "give one of them a file")
    to_stdout = "-" if "-" in (jsonl, json_file) else None
    told = source_options(
        size=size, fps=fps, pixel_format=pixel_format, control=control, transport=transport, decode=decode,
        timeout=timeout, realtime=realtime, follow=follow,
    )  # fmt: skip
    configured = sources_of(context, uris_of(*given_sources(context, camera, source)), told, roi, mask)
    into = SinkOptions(
        jsonl, jsonl_rotate, jsonl_keep, jsonl_fsync, rejects, rejects_limit, video, video_segment, video_limit,
        mqtt, prometheus, opcua, modbus, web, web_token, web_name, on_ng, show,
    )  # fmt: skip
    into.check()
    with (
        Supervisor() as supervisor,
        _HangUps(supervisor) as hang_ups,
        _open_sources(configured) as sources,
        open_engine(engine) as judging,
        contextlib.ExitStack() as opened,
    ):
        spec = judging.session.frame
        feeds = [_feed(one, it, spec) for one, it in zip(configured, sources, strict=True)]
        check_feeds(feeds)
        files = [("--jsonl", jsonl), ("--json", json_file)]
        files += [("--video", str(path)) for path, _ in into.videos(feeds)]
        check_outputs(files, engine, [one.uri for one in configured])
        triggering = None if trigger is None else open_trigger(trigger)
        planned = into.plan(feeds, (spec.width, spec.height), every)
        for feed in feeds:
            # What can be known of a file is told before anything is written; and the video needs to know its rate.
            if not feed.source.lasting:
                _check_first_frame(feed, spec)
        introduce(judging, teller.note)
        if check:
            say_check(configured, feeds, into.names(), judging.path, to_stdout, json_file)
            return
        sinks = make_sinks(opened, planned)
        for sink in sinks:
            if (url := getattr(sink, "url", None)) and sink.name == "--web":
                teller.note(f"the live page is {url}")
        running = Stream(
            feeds,
            judging,
            sinks,
            every=every,
            frames=frames,
            batch_wait_ms=wait_ms,
            min_area=min_area,
            trigger_wait_s=None if trigger is None else trigger_wait,
            give_up_s=give_up,
            patient=wait,
            healthy_within_s=healthy_within,
            open_engine=open_engine,
            on_event=_supervised(supervisor, teller.event),
            on_turn=lambda: supervisor.alive(_status_line(running)),
        )
        with (
            told_at_end(sinks, teller.note),
            summary_at_end(
                running.summary,
                stream_report if log_format == "text" else stream_log_line,
                json_file,
                to_stdout,
                lambda: running.judged > 0,
            ),
            stopping(running.stop, ends_well=(signal.SIGTERM,)),
            teller,
            _triggered(triggering, running),
            _progress(supervisor, teller, log_format) as progress,
        ):
            supervisor.ready()
            hang_ups.go_to(running)
            # From here on the sinks are the stream's to close, in their threads: one that hangs would do so here too.
            opened.pop_all()
            running.run(progress)


def _check_numbers(
    trigger_wait: float,
    give_up: float | None,
    healthy_within: float,
    min_area: int,
    every: int,
    trigger: str | None,
) -> None:
    """Refuse numbers that are none."""
    seconds = (("--trigger-wait", trigger_wait), ("--give-up", give_up), ("--healthy-within", healthy_within))
    for flag, value in seconds:
        if value is not None and not 0 < value < 3.2e7:
            raise InputError(f"{flag} {value:g} is no time", "give seconds above 0")
    if min_area < 0:
        raise InputError(f"--min-area {min_area} is no area", "give pixels, 0 or more")
    if trigger is not None and every != 1:
        raise InputError(
            f"--every {every} and --trigger were given", "triggers choose the frames: leave out --every"
        )


@contextlib.contextmanager
def _open_sources(configured: list[SourceConfig]) -> Iterator[list[Source]]:
    """The sources, made and not opened; their file descriptors and children are let go at the end."""
    from agp_edge.sources import open_source

    with contextlib.ExitStack() as made:
        sources = []
        for one in configured:
            source = open_source(one.uri, one.options, one.name)
            made.callback(source.close)
            sources.append(source)
        yield sources


def _feed(configured: SourceConfig, source: Source, spec: FrameSpec) -> Feed:
    """A source with its regions and mask."""
    from agp_edge.masks import Mask
    from agp_edge.roi import parse_rois
    from agp_edge.stream import Feed

    rois = parse_rois(configured.rois, (spec.width, spec.height))
    for roi in rois:
        if (roi.width, roi.height) != (spec.width, spec.height):
            raise InputError(
                f"--roi {roi.name} is {roi.width}x{roi.height}, the engine takes {spec.width}x{spec.height}",
                "give X,Y alone, or make an engine for it: "
                f"agp-edge export RUN --out BUNDLE --frame-size {roi.width}x{roi.height}",
            )
    mask = None if configured.mask is None else Mask.read(configured.mask)
    if mask is not None and mask.warning:
        note(f"warning: {mask.warning}")
    return Feed(source, rois, mask)


def _check_first_frame(feed: Feed, spec: FrameSpec) -> None:
    """Open a file and see that the engine takes its first frame.

    Raises:
        InputError: it does not open, or has another size. An image that cannot be read is left to the stream's count.
    """
    from agp_edge.sources.conform import conform

    with feed.source as source:
        try:
            first = source.read()
        except MissingExtraError:
            raise
        except InputError:
            return
        if first is not None:
            for roi in feed.rois or (None,):
                pixels = first.pixels if roi is None else roi.crop(first.pixels, source.name)
                conform(pixels, spec, source.name)


def _supervised(supervisor: Supervisor, tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Tell events, and systemd when a reload is over or the service ends."""

    def on_event(event: Event) -> None:
        tell(event)
        if event.kind in ("engine-changed", "engine-refused"):
            supervisor.ready()
        elif event.kind == "stopping":
            supervisor.stopping()

    return on_event


class _HangUps:
    """SIGHUP has the engine opened anew: where its path is a link, by now perhaps to another one.

    One that comes while the stream is still being made, which takes a while with some engines, ends nothing: the engine is
    opened again as soon as there is a stream.

    Args:
        supervisor: told that a reload begins.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._running: Stream | None = None
        self._early = False

    def __enter__(self) -> _HangUps:
        self._before = signal.signal(signal.SIGHUP, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGHUP, self._before)

    def go_to(self, running: Stream) -> None:
        """Have the engine of this stream opened anew, from now on."""
        self._running = running
        if self._early:
            self._reload(running)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._running is None:
            self._early = True
        else:
            self._reload(self._running)

    def _reload(self, running: Stream) -> None:
        self._supervisor.reloading()
        running.control.change_engine()


@contextlib.contextmanager
def _triggered(trigger: Trigger | None, running: Stream) -> Iterator[None]:
    if trigger is None:
        yield
        return
    try:
        trigger.start(running.control.trigger, running.tell)
        yield
    finally:
        trigger.close()


@contextlib.contextmanager
def _progress(supervisor: Supervisor, teller: Teller, log_format: str) -> Iterator[Progress]:
    """A bar or lines for a person; nothing where a log is kept: months of it would be nothing else."""
    from agp_edge.progress import silent

    if supervisor.is_there or log_format == "json":
        yield silent
        return
    with progress_bar("stream", teller.say) as progress:
        yield progress


def _status_line(running: Stream) -> str:
    """For `systemctl status`."""
    status = running.control.status()
    judged = sum(line["judged"] for line in status["sources"])
    ng = sum(line["ng"] for line in status["sources"])
    lost = sum(not line["connected"] for line in status["sources"])
    return f"{status['reason']}; {judged} judged, {ng} NG" + (f", {lost} sources lost" if lost else "")
