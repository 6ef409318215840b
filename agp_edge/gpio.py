"""GPIO lines by their address, `gpio://CHIP/LINE?option=value`, for what listens to one and what sets one."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agp_edge.errors import InputError, quote
from agp_edge.extras import import_extra

HINT = "gpioinfo (apt install gpiod) lists chips and lines"


@dataclass(frozen=True)
class GpioLine:
    """A line of a chip.

    Attributes:
        url: as it was given.
        path: the chip's device, if that is how it was named.
        line: its number there, or the name that the board gives it.
        options: what follows behind the `?`.
    """

    url: str
    path: Path
    line: int | str
    options: dict[str, str]

    def find_chip(self, gpiod: Any) -> str:
        """The chip's device: by its name, or by its label, which a chip on USB keeps when its number changes.

        Args:
            gpiod: the module.

        Raises:
            OSError: a chip cannot be asked.
        """
        if not self.path.exists():
            for path in sorted(Path("/dev").glob("gpiochip*")):
                with gpiod.Chip(str(path)) as chip:
                    if chip.get_info().label == self.path.name:
                        return str(path)
        return str(self.path)

    def milliseconds(self, option: str, default: float, longest: float) -> float:
        """An option that is a time.

        Raises:
            InputError: it is none, or too long.
        """
        text = self.options.get(option, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= longest:
            raise InputError(
                f"{self.url}: {option}={text} is no time", f"give milliseconds from 0 to {longest:g}"
            )
        return value

    def one_of(self, option: str, values: tuple[str, ...], default: str) -> str:
        """An option that has a few values.

        Raises:
            InputError: it has another.
        """
        value = self.options.get(option, default)
        if option in self.options and value not in values:
            raise InputError(f"{self.url}: {option}={value} is none", f"take one of: {', '.join(values)}")
        return value


def parse_line(url: str, flag: str, options: Set[str], example: str) -> GpioLine:
    """Read `gpio://gpiochip0/17?…`; the chip may be its number alone or its label, the line a name.

    Args:
        url: the address.
        flag: the one that it was given to, for errors.
        options: those that mean something.
        example: an address, for errors.

    Raises:
        InputError: it says too little, or too much.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    chip, line = parts.netloc, unquote(parts.path.strip("/"))
    strange = sorted(set(given) - options)
    if strange or not chip or not line or "@" in chip or ":" in chip:
        what = f"has no {strange[0]!r}" if strange else "says too little, or too much"
        raise InputError(f"{flag} {url} {what}", f"write {example}; {HINT}")
    path = Path("/dev") / (f"gpiochip{chip}" if chip.isdecimal() else unquote(chip))
    return GpioLine(url, path, int(line) if line.isdecimal() else line, given)


def import_gpiod(purpose: str) -> tuple[Any, Any]:
    """libgpiod's own binding, `gpiod` and `gpiod.line`, of version 2.

    Raises:
        MissingExtraError: it is not installed.
        InputError: it is that of version 1, as Debian 12 has it.
    """
    gpiod = import_extra("gpiod", "gpio", purpose)
    if not hasattr(gpiod, "request_lines"):
        raise InputError(
            f"{purpose} needs gpiod 2, here is {getattr(gpiod, '__version__', 'an older one')}",
            "install it: pip install 'agp-edge[gpio]'",
        )
    return gpiod, import_extra("gpiod.line", "gpio", purpose)


def reason(error: Exception) -> str:
    """Why a line cannot be used, as the system or the binding says it.

    Args:
        error: an OSError, or a ValueError, which is the binding's for a name that no line has.
    """
    return getattr(error, "strerror", None) or quote(error)
