"""The sinks that `stream` was asked for: checked first, made later."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.errors import InputError

if TYPE_CHECKING:
    from agp_edge.sinks import Sink
    from agp_edge.stream import Feed

LIVE_FPS, STILLS_FPS = 25.0, 2.0
"""At which the video of a camera, or of images, plays: sources that have no rate of their own."""


@dataclass
class SinkOptions:
    """What the flags of `stream` say of sinks, each named after its flag; addresses and URLs as they were written."""

    jsonl: str | None = None
    jsonl_rotate: str | None = None
    jsonl_keep: int | None = None
    jsonl_fsync: str = "never"
    rejects: Path | None = None
    rejects_limit: str | None = None
    video: Path | None = None
    video_segment: float | None = None
    video_limit: str | None = None
    mqtt: str | None = None
    prometheus: str | None = None
    opcua: str | None = None
    modbus: str | None = None
    web: str | None = None
    web_token: str | None = None
    web_name: list[str] = field(default_factory=list)
    on_ng: list[str] = field(default_factory=list)
    show: bool = False

    def check(self) -> None:
        """Refuse what depends on something that was not given.

        Raises:
            InputError: a flag without the one that it is about.
        """
        needs: list[tuple[str, bool, str, bool]] = [
            ("--jsonl-rotate", self.jsonl_rotate is not None, "--jsonl", self.jsonl not in (None, "-")),
            ("--jsonl-keep", self.jsonl_keep is not None, "--jsonl-rotate", self.jsonl_rotate is not None),
            ("--rejects-limit", self.rejects_limit is not None, "--rejects", self.rejects is not None),
            ("--video-segment", self.video_segment is not None, "--video", self.video is not None),
            (
                "--video-limit",
                self.video_limit is not None,
                "--video-segment",
                self.video_segment is not None,
            ),
            ("--web-token", self.web_token is not None, "--web", self.web is not None),
            ("--web-name", bool(self.web_name), "--web", self.web is not None),
        ]
        for flag, given, other, there in needs:
            if given and not there:
                raise InputError(
                    f"{flag} says nothing without {other}", f"give {other} too, or leave {flag} out"
                )

    def names(self) -> list[str]:
        """The flags of the sinks that were asked for."""
        kinds = ("jsonl", "rejects", "video", "mqtt", "prometheus", "opcua", "modbus", "web", "on_ng", "show")
        return [f"--{kind.replace('_', '-')}" for kind in kinds if getattr(self, kind)]

    def plan(self, feeds: Sequence[Feed], size_wh: tuple[int, int], every: int) -> list[Callable[[], Sink]]:
        """What makes each sink; what can be known before anything is opened is known then.

        Args:
            feeds: what is judged; each has a video of its own.
            size_wh: (width, height) of the engine's frame.
            every: every N-th frame is judged, so a video plays N times slower.

        Raises:
            InputError: a value that is none, or a secret that is not there.
            MissingExtraError: what a sink needs is not installed.
        """
        from agp_edge.extras import import_extra
        from agp_edge.secrets import expand_secrets

        self.check()
        planned: list[Callable[[], Sink]] = []
        if self.jsonl is not None:
            from agp_edge.sinks.jsonl import KEEP, JsonlSink, parse_fsync

            parse_fsync(self.jsonl_fsync)
            target, keep = self.jsonl, KEEP if self.jsonl_keep is None else self.jsonl_keep
            rotate = _bytes_of(self.jsonl_rotate, "--jsonl-rotate")
            planned.append(lambda: JsonlSink(target, rotate, keep, self.jsonl_fsync))
        if self.rejects is not None:
            from agp_edge.sinks.rejects import LIMIT_BYTES, RESERVE_BYTES, RejectsSink

            folder, limit = self.rejects, _bytes_of(self.rejects_limit, "--rejects-limit")
            reserve = 0
            if any(feed.source.lasting for feed in feeds):
                # A stream that nobody watches must not fill the disk.
                limit, reserve = limit or LIMIT_BYTES, RESERVE_BYTES
            planned.append(lambda: RejectsSink(folder, limit, reserve))
        planned += self._videos(feeds, size_wh, every)
        if self.mqtt is not None:
            from agp_edge.broker import parse_broker
            from agp_edge.sinks.mqtt import MqttSink

            url = expand_secrets(self.mqtt)
            import_extra("paho.mqtt.client", "mqtt", "--mqtt")
            parse_broker(url, "--mqtt")
            planned.append(lambda: MqttSink(url))
        if self.prometheus is not None:
            from agp_edge.address import parse_address
            from agp_edge.sinks.prometheus import PrometheusSink

            address = self.prometheus
            import_extra("prometheus_client", "prometheus", "--prometheus")
            parse_address(address, "--prometheus")
            planned.append(lambda: PrometheusSink(address))
        if self.opcua is not None:
            from agp_edge.sinks.opcua import OpcUaSink, parse_endpoint

            endpoint = expand_secrets(self.opcua)
            import_extra("asyncua", "opcua", "--opcua")
            parse_endpoint(endpoint)
            planned.append(lambda: OpcUaSink(endpoint))
        if self.modbus is not None:
            from agp_edge.address import parse_address
            from agp_edge.sinks.modbus import ModbusSink

            server = self.modbus
            parse_address(server, "--modbus")
            planned.append(lambda: ModbusSink(server))
        if self.show:
            from agp_edge.sinks.show import ShowSink, check_windows

            check_windows()
            planned.append(ShowSink)
        if self.on_ng:
            from agp_edge.sinks.command import CommandSink, on_ng_sink

            for text in self.on_ng:
                if not text.lower().startswith("gpio://"):
                    CommandSink(text).close()
            planned += [partial(on_ng_sink, text) for text in self.on_ng]
        if self.web is not None:
            from agp_edge.address import parse_address
            from agp_edge.sinks.web import WebSink
            from agp_edge.sinks.web.guard import Guard, read_token

            web = self.web
            import_extra("aiohttp.web", "web", "--web")
            host, _ = parse_address(web, "--web")
            token = None if self.web_token is None else read_token(self.web_token)
            Guard(host, token, self.web_name)
            planned.append(lambda: WebSink(web, token, self.web_name))
        return planned

    def _videos(
        self, feeds: Sequence[Feed], size_wh: tuple[int, int], every: int
    ) -> list[Callable[[], Sink]]:
        from agp_edge.sinks.video import VideoSink, check_replaceable

        planned: list[Callable[[], Sink]] = []
        limit = _bytes_of(self.video_limit, "--video-limit")
        for path, (feed, roi) in self.videos(feeds):
            if self.video_segment is None:
                check_replaceable(path)

            def make(path: Path = path, feed: Feed = feed, roi: str | None = roi) -> Sink:
                fps = feed.source.fps or (LIVE_FPS if feed.source.live else STILLS_FPS)
                return VideoSink(
                    path, size_wh, max(fps / max(every, 1), 0.1), feed.source.name,
                    roi=roi, segment_s=self.video_segment, limit_bytes=limit,
                )  # fmt: skip

            planned.append(make)
        return planned

    def videos(self, feeds: Sequence[Feed]) -> list[tuple[Path, tuple[Feed, str | None]]]:
        """The annotated video of every source and region: FILE, or FILE-1, FILE-2 …"""
        if self.video is None:
            return []
        shown: list[tuple[Feed, str | None]] = []
        for feed in feeds:
            shown += [(feed, roi.name) for roi in feed.rois] or [(feed, None)]
        if len(shown) == 1:
            return [(self.video, shown[0])]
        stem, suffix = self.video.stem, self.video.suffix
        return [(self.video.with_name(f"{stem}-{i}{suffix}"), one) for i, one in enumerate(shown, 1)]


def _bytes_of(text: str | None, flag: str) -> int | None:
    from agp_edge.sinks.disk import parse_bytes

    return None if text is None else parse_bytes(text, flag)


def make_sinks(opened: contextlib.ExitStack, planned: Sequence[Callable[[], Sink]]) -> list[Sink]:
    """Make them in order; `opened` closes those that are there if a later one cannot be made."""
    sinks: list[Sink] = []
    for make in planned:
        sink = make()
        opened.callback(sink.close)
        sinks.append(sink)
    return sinks
