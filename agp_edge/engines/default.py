"""The default engine: a second name for the one that was chosen, so that whoever runs it need not know which it is.

`NAME.default.engine` and `NAME.default.engine.json` are relative symbolic links to the pair; where links cannot be made
(some network drives, FAT), they are copies.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from agp_edge.bundle import Bundle
from agp_edge.engines.sidecar import SUFFIX, sidecar_path
from agp_edge.errors import InputError
from agp_edge.files import flush, translate_write_errors


def default_path(bundle: Bundle) -> Path:
    """Where a bundle's default engine lies: beside it."""
    return bundle.path.parent / f"{bundle.manifest.name}.default{SUFFIX}"


def check_default(default: Path) -> None:
    """Refuse a name that is taken by something else, before any work is done for it.

    Raises:
        InputError: it is a folder, or a file without a sidecar.
    """
    if default.is_symlink() or not default.exists():
        return
    if default.is_dir() or not sidecar_path(default).is_file():
        raise InputError(
            f"{default} is there and is no engine: it would be lost",
            "move it away, or give --save-engine FILE",
        )


def set_default(default: Path, engine: Path) -> None:
    """Let the default be an engine that is in place beside it.

    The engine's link is replaced in one step, and who reads it takes the sidecar beside the engine that it leads to: there is
    no moment in which the two do not fit. Of copies the sidecar goes first, as everywhere: a plan without one is no engine.

    Args:
        default: from `default_path`.
        engine: in the same folder.

    Raises:
        DiskFullError, InputError: it cannot be written.
    """
    pairs = ((engine, default), (sidecar_path(engine), sidecar_path(default)))
    with (
        translate_write_errors(default),
        tempfile.TemporaryDirectory(prefix=".agp-edge-default-", dir=default.parent) as folder,
    ):
        scratch = Path(folder)
        if _can_link(scratch):
            for source, place in pairs:
                link = scratch / place.name
                link.symlink_to(source.name)
                link.replace(place)
            return
        copies = [Path(shutil.copyfile(source, scratch / place.name)) for source, place in pairs]
        sidecar_path(default).unlink(missing_ok=True)
        for copy, (_, place) in zip(copies, pairs, strict=True):
            flush(copy)
            copy.replace(place)


def _can_link(folder: Path) -> bool:
    """Whether the file system has symbolic links."""
    try:
        (folder / "probe").symlink_to("nowhere")
    except OSError:
        return False
    return True
