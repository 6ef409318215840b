"""The controls of a V4L2 camera, set by name and held against what the camera has: exposure, gain, focus."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agp_edge.errors import InputError
from agp_edge.sources import v4l2_ioctl as v4l2

_NUMBERS = frozenset({v4l2.CTRL_TYPE_INTEGER, v4l2.CTRL_TYPE_INTEGER64, v4l2.CTRL_TYPE_BITMASK})
_MENUS = frozenset({v4l2.CTRL_TYPE_MENU, v4l2.CTRL_TYPE_INTEGER_MENU})
_SETTABLE = _NUMBERS | _MENUS | {v4l2.CTRL_TYPE_BOOLEAN, v4l2.CTRL_TYPE_BUTTON, v4l2.CTRL_TYPE_STRING}
_BOOLEANS = {"1": 1, "true": 1, "on": 1, "yes": 1, "0": 0, "false": 0, "off": 0, "no": 0}


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: as `v4l2-ctl` writes it: lower case, with underscores.
        number: the driver's own.
        kind: `v4l2_ioctl.CTRL_TYPE_…`.
        low, high, step: of a number; of a string its length.
        flags: `v4l2_ioctl.CTRL_FLAG_…`, as they were.
        menu: index -> label; empty of what is no menu.
    """

    name: str
    number: int
    kind: int
    low: int
    high: int
    step: int
    flags: int
    menu: Mapping[int, str] = field(default_factory=dict)

    @property
    def settable(self) -> bool:
        """Whether it takes a value."""
        return self.kind in _SETTABLE and not self.flags & v4l2.CTRL_FLAG_READ_ONLY

    def __str__(self) -> str:
        return f"{self.name} ({self.range()})"

    def range(self) -> str:
        """What it takes, for people."""
        if self.kind in _MENUS:
            return ", ".join(f"{index}={label}" for index, label in self.menu.items())
        if self.kind == v4l2.CTRL_TYPE_BOOLEAN:
            return "0 or 1"
        if self.kind == v4l2.CTRL_TYPE_BUTTON:
            return "1 presses it"
        if self.kind == v4l2.CTRL_TYPE_STRING:
            return f"{self.low} to {self.high} characters"
        if self.kind == v4l2.CTRL_TYPE_BITMASK:
            return f"bits of {self.high & 0xFFFFFFFF:#x}"
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")

    def parse(self, text: str) -> int | bytes:
        """A value as the driver takes it.

        Raises:
            ValueError: it is none for this control.
        """
        if self.kind in _MENUS:
            return self._parse_menu(text)
        if self.kind == v4l2.CTRL_TYPE_BOOLEAN:
            value = _BOOLEANS.get(text.lower())
            if value is None:
                raise ValueError
            return value
        if self.kind == v4l2.CTRL_TYPE_STRING:
            raw = text.encode()
            if not self.low <= len(raw) <= self.high or (len(raw) - self.low) % max(self.step, 1):
                raise ValueError
            return raw
        number = int(text, 0)
        if self.kind == v4l2.CTRL_TYPE_BUTTON:
            if number != 1:
                raise ValueError
        elif self.kind == v4l2.CTRL_TYPE_BITMASK:
            if number & ~(self.high & 0xFFFFFFFF):
                raise ValueError
        elif not self.low <= number <= self.high or (number - self.low) % max(self.step, 1):
            raise ValueError
        return number

    def _parse_menu(self, text: str) -> int:
        if re.fullmatch(r"\d+", text) and int(text) in self.menu:
            return int(text)
        labels = [index for index, label in self.menu.items() if label.lower() == text.lower()]
        if len(labels) != 1:
            raise ValueError
        return labels[0]


def list_controls(fd: int) -> list[Control]:
    """The controls of a device, in the driver's order; those that it has switched off are left out."""
    found = []
    entry = v4l2.QueryExtCtrl(id=v4l2.CTRL_FLAG_NEXT_CTRL)
    while v4l2.ask(fd, v4l2.QUERY_EXT_CTRL, entry):
        if entry.type != v4l2.CTRL_TYPE_CTRL_CLASS and not entry.flags & v4l2.CTRL_FLAG_DISABLED:
            found.append(_describe(fd, entry))
        entry = v4l2.QueryExtCtrl(id=entry.id | v4l2.CTRL_FLAG_NEXT_CTRL)
    return found


def control_name(title: str) -> str:
    """A control's name as `v4l2-ctl` makes it of what the driver calls it: `White Balance, Automatic` and its like.

    >>> control_name("White Balance, Automatic")
    'white_balance_automatic'
    """
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def set_controls(fd: int, name: str, wanted: Mapping[str, str]) -> None:
    """Set controls, and read each back.

    Switches and menus are set before numbers, because an automatic that is on holds its number: `auto_exposure` before
    `exposure_time_absolute`.

    Args:
        fd: the opened device.
        name: its name, for errors.
        wanted: name -> value, as `--control` takes them.

    Raises:
        InputError: there is no such control, it does not take that value, or did not keep it.
        OSError: the driver failed.
    """
    if not wanted:
        return
    controls = {control.name: control for control in list_controls(fd)}
    pairs = [(_find(name, key, controls), value) for key, value in wanted.items()]
    values = [(control, _parse(name, control, text)) for control, text in pairs]
    for control, value in sorted(values, key=lambda pair: pair[0].kind in _NUMBERS):
        _refuse_if_held(fd, name, control)
        _set(fd, name, control, value)
    for control, value in values:
        _check(fd, name, control, value)


def _describe(fd: int, entry: v4l2.QueryExtCtrl) -> Control:
    menu: dict[int, str] = {}
    if entry.type in _MENUS:
        for index in range(entry.minimum, entry.maximum + 1):
            item = v4l2.QueryMenu(id=entry.id, index=index)
            # A menu may have holes.
            if v4l2.ask(fd, v4l2.QUERYMENU, item):
                is_number = entry.type == v4l2.CTRL_TYPE_INTEGER_MENU
                menu[index] = str(item.item.value) if is_number else item.item.name.decode(errors="replace")
    return Control(
        name=control_name(entry.name.decode(errors="replace")),
        number=entry.id,
        kind=entry.type,
        low=entry.minimum,
        high=entry.maximum,
        step=entry.step,
        flags=entry.flags,
        menu=menu,
    )


def _find(name: str, key: str, controls: Mapping[str, Control]) -> Control:
    control = controls.get(control_name(key))
    if control is None:
        able = "; ".join(str(c) for c in controls.values() if c.settable)
        raise InputError(
            f"camera {name} has no control {key!r}", f"it has: {able}" if able else "it has none at all"
        )
    if not control.settable:
        raise InputError(f"control {control.name} of camera {name} cannot be set", "leave it out")
    return control


def _parse(name: str, control: Control, text: str) -> int | bytes:
    try:
        return control.parse(text)
    except ValueError:
        raise InputError(
            f"control {control.name} of camera {name} does not take {text!r}", f"it takes {control.range()}"
        ) from None


def _refuse_if_held(fd: int, name: str, control: Control) -> None:
    """Refuse a number that has no effect now: some drivers refuse it themselves, others keep it for later."""
    now = v4l2.QueryExtCtrl(id=control.number)
    v4l2.call(fd, v4l2.QUERY_EXT_CTRL, now)
    if now.flags & v4l2.CTRL_FLAG_INACTIVE and control.kind in _NUMBERS:
        raise InputError(
            f"control {control.name} of camera {name} is held by an automatic and has no effect",
            "switch that off with another --control, as in auto_exposure=1 or white_balance_automatic=0",
        )


def _set(fd: int, name: str, control: Control, value: int | bytes) -> None:
    entry = v4l2.ExtControl(id=control.number)
    if isinstance(value, bytes):
        text = ctypes.create_string_buffer(value)
        entry.size = len(text)
        entry.u.string = ctypes.addressof(text)
    elif control.kind == v4l2.CTRL_TYPE_INTEGER64:
        entry.u.value64 = value
    else:
        entry.u.value = value
    try:
        v4l2.call(fd, v4l2.S_EXT_CTRLS, _one(entry))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise InputError(
                f"control {control.name} of camera {name} cannot be set now",
                f"another program uses the camera; see which: fuser -v {name}",
            ) from error
        if error.errno in (errno.EACCES, errno.EINVAL, errno.ERANGE):
            raise InputError(
                f"camera {name} refuses {value!r} for its control {control.name}",
                f"it takes {control.range()}; another control may hold it, see: v4l2-ctl -d {name} --list-ctrls",
            ) from error
        raise


def _check(fd: int, name: str, control: Control, value: int | bytes) -> None:
    """Refuse a value that was not kept."""
    now = v4l2.QueryExtCtrl(id=control.number)
    v4l2.call(fd, v4l2.QUERY_EXT_CTRL, now)
    unread = v4l2.CTRL_FLAG_WRITE_ONLY | v4l2.CTRL_FLAG_VOLATILE
    if now.flags & unread or control.kind == v4l2.CTRL_TYPE_BUTTON:
        return
    kept = read_control(fd, control)
    if kept != value:
        raise InputError(
            f"control {control.name} of camera {name} was set to {value!r} and is {kept!r}",
            f"it takes {control.range()}; another control may hold it",
        )


def read_control(fd: int, control: Control) -> int | bytes:
    """The value that a control has now.

    Raises:
        OSError: it cannot be read.
    """
    entry = v4l2.ExtControl(id=control.number)
    if control.kind == v4l2.CTRL_TYPE_STRING:
        text = ctypes.create_string_buffer(control.high + 1)
        entry.size = len(text)
        entry.u.string = ctypes.addressof(text)
        v4l2.call(fd, v4l2.G_EXT_CTRLS, _one(entry))
        return text.value
    argument = _one(entry)
    v4l2.call(fd, v4l2.G_EXT_CTRLS, argument)
    got: v4l2.ExtControl = argument.controls[0]
    if control.kind == v4l2.CTRL_TYPE_BITMASK:
        return got.u.value & 0xFFFFFFFF
    return got.u.value64 if control.kind == v4l2.CTRL_TYPE_INTEGER64 else got.u.value


def current_values(fd: int) -> dict[str, int | bytes | None]:
    """Control -> its value; None of those that cannot be read."""
    found: dict[str, int | bytes | None] = {}
    for control in list_controls(fd):
        if not control.settable or control.kind == v4l2.CTRL_TYPE_BUTTON:
            continue
        found[control.name] = None
        with contextlib.suppress(OSError):
            found[control.name] = read_control(fd, control)
    return found


def _one(entry: v4l2.ExtControl) -> v4l2.ExtControls:
    return v4l2.ExtControls(which=v4l2.CTRL_WHICH_CUR_VAL, count=1, controls=ctypes.pointer(entry))
