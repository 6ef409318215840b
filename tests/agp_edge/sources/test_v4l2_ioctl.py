"""Structures, numbers and calls of the video interface, held against the kernel's own header by a C compiler."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agp_edge.sources import v4l2_ioctl as v4l2

HEADER = Path("/usr/include/linux/videodev2.h")

C_CALLS = (
    "QUERYCAP", "ENUM_FMT", "G_FMT", "S_FMT", "REQBUFS", "QUERYBUF", "QBUF", "DQBUF", "STREAMON", "STREAMOFF", "G_PARM",
    "S_PARM", "QUERYMENU", "G_EXT_CTRLS", "S_EXT_CTRLS", "ENUM_FRAMESIZES", "ENUM_FRAMEINTERVALS", "QUERY_EXT_CTRL",
)  # fmt: skip

C_NAMES = {"Timeval": "struct timeval"}
"""Python's structure -> C's, where the first line of its docstring does not say it."""

ANONYMOUS = {"FormatUnion", "ParmUnion", "PlaneUnion", "BufferUnion", "MenuUnion", "ControlUnion"}
"""Unions that C gives no name; their members are held where they lie in their structures."""


def offset_of(structure: Any, field: str) -> int:
    return int(getattr(structure, field).offset)


MEMBERS = {
    ("v4l2_format", "fmt.pix"): (offset_of(v4l2.Format, "fmt"), v4l2.PixFormat),
    ("v4l2_format", "fmt.pix_mp"): (offset_of(v4l2.Format, "fmt"), v4l2.PixFormatMplane),
    ("v4l2_streamparm", "parm.capture"): (offset_of(v4l2.StreamParm, "parm"), v4l2.CaptureParm),
    ("v4l2_buffer", "m.planes"): (offset_of(v4l2.Buffer, "m"), ctypes.c_void_p),
    ("v4l2_plane", "m.mem_offset"): (offset_of(v4l2.Plane, "m"), ctypes.c_uint32),
    ("v4l2_querymenu", "value"): (offset_of(v4l2.QueryMenu, "item"), ctypes.c_int64),
    ("v4l2_querymenu", "name"): (offset_of(v4l2.QueryMenu, "item"), ctypes.c_char * 32),
    ("v4l2_ext_control", "value64"): (offset_of(v4l2.ExtControl, "u"), ctypes.c_int64),
    ("v4l2_ext_control", "string"): (offset_of(v4l2.ExtControl, "u"), ctypes.c_void_p),
    ("v4l2_frmsizeenum", "discrete.width"): (
        offset_of(v4l2.SizeEntry, "stepwise") + offset_of(v4l2.SizeRange, "min_width"),
        ctypes.c_uint32,
    ),
    ("v4l2_frmsizeenum", "discrete.height"): (
        offset_of(v4l2.SizeEntry, "stepwise") + offset_of(v4l2.SizeRange, "max_width"),
        ctypes.c_uint32,
    ),
    ("v4l2_frmivalenum", "discrete"): (offset_of(v4l2.IntervalEntry, "stepwise"), v4l2.Fraction),
}
"""(structure, member of a union in it) -> (offset, type) here."""


def structures() -> dict[str, Any]:
    """C's name -> ours, of all that there are."""
    found = {}
    for name, kind in vars(v4l2).items():
        if isinstance(kind, type) and issubclass(kind, (ctypes.Structure, ctypes.Union)):
            if name in ANONYMOUS:
                continue
            match = re.match(r"`(v4l2_\w+)`", kind.__doc__ or "")
            assert match or name in C_NAMES, f"{name} does not say which structure it is"
            found[C_NAMES.get(name, "") or f"struct {match[1] if match else ''}"] = kind
    return found


def what_python_has() -> dict[str, int]:
    facts = {}
    for c_name, kind in structures().items():
        facts[f"sizeof {c_name}"] = ctypes.sizeof(kind)
        for field, *_ in kind._fields_:
            member = getattr(kind, field)
            # An unnamed union has no offset of its own in C.
            if field in ("u", "item"):
                continue
            facts[f"offset {c_name} {field}"] = member.offset
            facts[f"size {c_name} {field}"] = member.size
    for (structure, field), (offset, member_type) in MEMBERS.items():
        facts[f"offset struct {structure} {field}"] = offset
        facts[f"size struct {structure} {field}"] = ctypes.sizeof(member_type)
    for call in C_CALLS:
        facts[f"value VIDIOC_{call}"] = getattr(v4l2, call)
    for name, value in vars(v4l2).items():
        if name.isupper() and name not in C_CALLS and isinstance(value, int) and not name.startswith("_"):
            facts[f"value V4L2_{name}"] = value
    return facts


COMPILERS = {"gcc": "gcc", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"}
"""Compiler -> the packages that bring it."""


def objections(compiler: str, facts: dict[str, int], folder: Path) -> list[str]:
    """Facts that are otherwise in the kernel's header, by a compiler that is not even asked for a program."""
    lines = []
    for fact, value in facts.items():
        kind, *rest = fact.split(" ")
        of, member = " ".join(rest[:-1]), rest[-1]
        has = {
            "sizeof": f"sizeof({' '.join(rest)})",
            "offset": f"offsetof({of}, {member})",
            "size": f"sizeof((({of} *)0)->{member})",
            "value": member,
        }[kind]
        # The header's enumerations are signed, a call's number is unsigned.
        lines.append(f'_Static_assert((unsigned int)({has}) == {value}u, "<{fact}>");')
    source = folder / "facts.c"
    source.write_text(
        "#include <stddef.h>\n#include <sys/time.h>\n#include <linux/videodev2.h>\n" + "\n".join(lines) + "\n"
    )
    done = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    found = re.findall(r'static assertion failed: "<(.*)>"', done.stderr)
    assert bool(found) == bool(done.returncode), done.stderr
    return found


@pytest.mark.parametrize("compiler", COMPILERS)
def test_all_is_laid_out_as_in_the_kernels_header(compiler: str, tmp_path: Path) -> None:
    if not shutil.which(compiler) or not HEADER.exists():
        pytest.skip(f"apt install {COMPILERS[compiler]} linux-libc-dev")
    facts = what_python_has()
    assert len(facts) > 300
    assert objections(compiler, facts, tmp_path) == []
    wrong = {
        "sizeof struct v4l2_buffer": 84,
        "value VIDIOC_DQBUF": v4l2.QBUF,
        "offset struct v4l2_format type": 4,
    }
    assert objections(compiler, facts | wrong, tmp_path) == [fact for fact in facts if fact in wrong]


def test_pixel_formats_have_names() -> None:
    assert v4l2.fourcc(0x56595559) == "YUYV"
    assert v4l2.fourcc(0x20363159) == "Y16"
    assert v4l2.fourcc(0xA0363159) == "Y16-BE"
    for code in (0x56595559, 0x20363159, 0xA0363159):
        assert v4l2.fourcc_code(v4l2.fourcc(code)) == code
    assert v4l2.fourcc_code("toolong") == v4l2.fourcc_code("") == 0


def test_a_file_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDWR)
    try:
        assert not v4l2.ask(fd, v4l2.QUERYCAP, v4l2.Capability())
        with pytest.raises(OSError) as failure:
            v4l2.call(fd, v4l2.QUERYCAP, v4l2.Capability())
        assert failure.value.errno == errno.ENOTTY
    finally:
        os.close(fd)
    with pytest.raises(OSError):
        v4l2.ask(fd, v4l2.QUERYCAP, v4l2.Capability())
