"""Sources: one file a kind of camera or file, found by the scheme of its URI in one table."""

from __future__ import annotations

import glob
import importlib
import re
from collections.abc import Callable
from pathlib import Path

from agp_edge.errors import InputError
from agp_edge.secrets import expand_secrets
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.isolated import IsolatedSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.uri import redact, scheme_of

__all__ = ["SOURCES", "Frame", "Source", "SourceOptions", "kind_of", "open_source", "redact"]

SOURCES = {
    "v4l2": ("agp_edge.sources.v4l2", "V4l2Source"),
    "csi": ("agp_edge.sources.csi", "CsiSource"),
    "genicam": ("agp_edge.sources.genicam", "GenicamSource"),
    "rtsp": ("agp_edge.sources.rtsp", "RtspSource"),
    "rtsps": ("agp_edge.sources.rtsp", "RtspSource"),
    "http": ("agp_edge.sources.http", "HttpSource"),
    "https": ("agp_edge.sources.http", "HttpSource"),
    "images": ("agp_edge.sources.images", "ImagesSource"),
    "video": ("agp_edge.sources.video", "VideoFileSource"),
}
"""Kind -> module and class; the kind of a URI is its scheme, of a path what `kind_of` says."""

ISOLATED = frozenset({"csi", "genicam", "rtsp", "rtsps"})
"""Kinds that are read in a process of their own, because the library below may block for ever, leak, or crash."""

_LOCAL_KINDS = ("images", "video")


def kind_of(uri: str) -> str:
    """The kind of a source, by scheme, else by what the path is: a camera, images, or a video file.

    Raises:
        InputError: there is no such scheme, or it is a URL without one.
    """
    scheme = scheme_of(uri)
    if scheme is not None:
        if scheme not in SOURCES or scheme in _LOCAL_KINDS:
            schemes = ", ".join(f"{name}://" for name in SOURCES if name not in _LOCAL_KINDS)
            raise InputError(f"there is no source {redact(uri)!r}", f"take a path, or one of: {schemes}")
        return scheme
    if re.fullmatch(r"\d+|/dev/.+", uri):
        return "v4l2"
    from agp_edge.datasets.images import IMAGE_SUFFIXES
    from agp_edge.sources.images import GLOB_CHARACTERS

    path = Path(uri)
    if redact(uri) != uri and not path.exists() and not glob.glob(uri):  # noqa: PTH207 - takes absolute patterns too
        # Not told as a path that does not exist: it has a password in it.
        raise InputError(f"there is no source {redact(uri)!r}", "a URL begins with rtsp:// or http://")
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return "images"
    if not path.exists() and GLOB_CHARACTERS & set(uri):
        return "images"
    return "video"


def open_source(uri: str, options: SourceOptions = AS_IT_IS, name: str | None = None) -> Source:
    """Make the source of a URI; nothing is opened yet.

    Args:
        uri: `0`, `/dev/video0`, `v4l2:///dev/video0`, `csi://0`, `genicam://SERIAL`, `rtsp://…`, `http://…` (MJPEG),
            a video file, an image, a folder, a glob. `${NAME}` and `${file:PATH}` in it are secrets, see `agp_edge.secrets`.
        options: what it is told; refused where it cannot heed it.
        name: what verdicts call it; without one the URI, without its password.

    Raises:
        InputError: there is no such scheme, the URI says too little, or an option does not apply to this kind.
    """
    if not uri:
        raise InputError("the source is empty", "give a camera's number, a path or a URI")
    uri = expand_secrets(uri)
    kind = kind_of(uri)
    if kind == "video" and options.follow and not Path(uri).exists():
        kind = "images"  # A folder that is not there yet.
    module, class_name = SOURCES[kind]
    source_class: type[Source] = getattr(importlib.import_module(module), class_name)
    options.check(redact(uri), source_class.takes)
    make: Callable[[str, SourceOptions], Source] = source_class
    source = make(uri, options)
    source.name = name or source.name
    return IsolatedSource(source, uri, options) if kind in ISOLATED else source
