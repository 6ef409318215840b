"""The configuration file of `stream`: TOML with the same names as the flags."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agp_edge.cli.options import source_options
from agp_edge.errors import InputError, quote

if TYPE_CHECKING:
    from agp_edge.sources import SourceOptions

NOT_IN_A_FILE = frozenset({"config", "check", "help"})
"""Flags that say what to do with the file itself."""

SOURCE_KEYS = {
    "size": str, "fps": float, "pixel-format": str, "control": list, "transport": str, "decode": str,
    "timeout": float, "realtime": bool, "follow": bool, "roi": list, "mask": str, "name": str,
}  # fmt: skip
"""What a `[[source]]` may say beside its `uri`, and the kind of value: the flags of the same names."""


LONGEST_NAME = 60
"""Characters of a source's name."""


@dataclass(frozen=True)
class SourceConfig:
    """One source as it was configured.

    Attributes:
        uri: as written, its secrets not looked up.
        options: what it is told.
        rois: regions of interest, as written.
        mask: what never counts.
        name: what verdicts call it.
    """

    uri: str
    options: SourceOptions
    rois: list[str]
    mask: Path | None
    name: str | None = None


def read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    # From Python 3.11 on it is in the standard library, before it is a package of the same words.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        values: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
        return values
    except FileNotFoundError as error:
        raise InputError(f"there is no configuration {path}", "write one, as docs/stream.md shows") from error
    except OSError as error:
        raise InputError(
            f"--config {path} cannot be read: {error.strerror}", "see who may read it: ls -l"
        ) from error
    except (UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise InputError(
            f"{path} is no TOML: {quote(error)}", "see https://toml.io for how it is written"
        ) from error


def as_defaults(context: typer.Context, param: Any, path: Path | None) -> Path | None:
    """Let a file's values stand for flags that were not given; a callback of `--config`, called before all others.

    Raises:
        InputError: as `read_config`, or a name that is no flag.
    """
    if path is None:
        return None
    values = read_config(path)
    flags = {
        option.removeprefix("--"): parameter
        for parameter in context.command.params
        for option in parameter.opts
        if option.removeprefix("--") not in NOT_IN_A_FILE
    }
    unknown = sorted(set(values) - set(flags))
    if unknown:
        raise InputError(
            f"{path}: there is no flag {quote(unknown[0])}",
            _did_you_mean(unknown[0], sorted(flags)),
        )
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        parameter = flags[key]
        name = str(parameter.name)
        several = bool(getattr(parameter, "multiple", False))
        if isinstance(value, dict) or (isinstance(value, list) and not several):
            raise InputError(f"{path}: {key} is {_kind(value)}", f"give --{key} one value")
        if key == "source":
            tables = [_source_table(path, entry) for entry in (value if isinstance(value, list) else [value])]
            context.meta["sources"] = tables
            defaults[name] = [table["uri"] for table in tables]
        else:
            values_of_key = value if isinstance(value, list) else [value]
            if any(isinstance(v, bool) != bool(getattr(parameter, "is_flag", False)) for v in values_of_key):
                kind = "true or false" if getattr(parameter, "is_flag", False) else "a value"
                raise InputError(f"{path}: {key} is {_kind(value)}", f"--{key} takes {kind}")
            defaults[name] = values_of_key if several else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _kind(value: Any) -> str:
    """What a value is in TOML's words: the value itself may hold a password."""
    kinds = {
        bool: "a boolean",
        str: "a string",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def given_sources(
    context: typer.Context, camera: str | None, sources: list[str]
) -> tuple[str | None, list[str]]:
    """`--camera` and `--source`: where the command line has either, the file's count no more, whichever of the two they are."""
    given = [getattr(context.get_parameter_source(name), "name", "") for name in ("camera", "source")]
    if "COMMANDLINE" not in given:
        return camera, sources
    return (camera if given[0] == "COMMANDLINE" else None), (sources if given[1] == "COMMANDLINE" else [])


def sources_of(
    context: typer.Context,
    uris: list[str],
    options: SourceOptions,
    rois: list[str],
    mask: Path | None,
) -> list[SourceConfig]:
    """Every source with what it is told: of a configuration's tables each its own, on top of what the flags say for all.

    Args:
        context: of the command; has the tables that `as_defaults` read.
        uris: of `--camera` and `--source`.
        options, rois, mask: of the flags.

    Raises:
        InputError: a value in a table that is none.
    """
    tables = {table["uri"]: table for table in context.meta.get("sources", [])}
    return [_configured(uri, tables.get(uri, {}), options, rois, mask) for uri in uris]


def _configured(
    uri: str, table: Mapping[str, Any], options: SourceOptions, rois: list[str], mask: Path | None
) -> SourceConfig:
    from dataclasses import replace

    own = {
        key.replace("-", "_"): value
        for key, value in table.items()
        if key not in ("uri", "roi", "mask", "name")
    }
    if own:
        told = source_options(**own)
        options = replace(options, **{name: getattr(told, name) for name in told.given()})
    return SourceConfig(
        uri,
        options,
        table.get("roi", rois),
        Path(table["mask"]) if "mask" in table else mask,
        table.get("name"),
    )


def _source_table(path: Path, entry: Any) -> dict[str, Any]:
    """One entry of `source`, a URI or a table, as a table."""
    if isinstance(entry, (str, int)) and not isinstance(entry, bool):
        return {"uri": str(entry)}
    if not isinstance(entry, dict) or not isinstance(entry.get("uri"), str):
        raise InputError(f"{path}: a source is {quote(type(entry).__name__)}", "write [[source]] with a uri")
    table: dict[str, Any] = {"uri": entry["uri"]}
    for key, value in entry.items():
        if key == "uri":
            continue
        kind = SOURCE_KEYS.get(key)
        if kind is None:
            raise InputError(
                f"{path}: a source has no {quote(key)}", _did_you_mean(key, ["uri", *SOURCE_KEYS])
            )
        value = float(value) if kind is float and type(value) is int else value
        value = [value] if kind is list and isinstance(value, str) else value
        if key == "control" and isinstance(value, dict):
            value = [f"{name}={setting}" for name, setting in value.items()]
        if not isinstance(value, kind) or (
            isinstance(value, list) and not all(isinstance(v, str) for v in value)
        ):
            raise InputError(
                f"{path}: {key} of a source is {_kind(value)}", f"give {key} as the flag --{key} takes it"
            )
        if key == "name" and not (0 < len(str(value)) <= LONGEST_NAME and str(value).isprintable()):
            raise InputError(
                f"{path}: a source's name of {len(str(value))} characters is none",
                f"give 1 to {LONGEST_NAME} printable characters",
            )
        table[key] = value
    return table


def _did_you_mean(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]}?"
    return "names are those of the flags, without the dashes before: agp-edge stream --help"
