"""Every kind of file that a camera or a label tool may write: what is read of it is what it shows."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets import check_dataset, load_dataset
from agp_edge.datasets.images import read_image, read_mask
from agp_edge.datasets.orientation import exif_orientation, turn_upright
from agp_edge.errors import InputError

Image: Any = pytest.importorskip("PIL.Image")
ImageOps: Any = pytest.importorskip("PIL.ImageOps")

GREY = np.array([[0, 100, 200, 255]], np.uint8)
RGB = np.array([[[10, 20, 30], [10, 20, 30], [200, 100, 50], [1, 2, 3]]], np.uint8)
ALPHA = np.array([[0, 128, 255, 7]], np.uint8)
BITS = GREY > 100


def bgr_of(picture: Any) -> NDArray[np.uint8]:
    """What Pillow shows of it."""
    return np.asarray(picture.convert("RGB"))[..., ::-1]


def save(path: Path, picture: Any, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def palette(**options: Any) -> Any:
    picture = Image.new("P", (4, 1))
    picture.putpalette(RGB[0, [0, 2, 3]].ravel().tolist())
    picture.putdata([0, 0, 1, 2])
    return picture


def grey_alpha() -> Any:
    picture = Image.fromarray(GREY)
    picture.putalpha(Image.fromarray(ALPHA))
    return picture


def rgba() -> Any:
    return Image.fromarray(np.dstack([RGB, ALPHA]))


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", Image.fromarray(BITS))
    assert read_image(path, mono=True)[..., 0].tolist() == (BITS * 255).tolist()
    assert read_mask(path).tolist() == BITS.tolist()


def test_one_bit_tiff_as_a_fax_packs_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(BITS), compression="group4")
    assert read_mask(path).tolist() == BITS.tolist()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_grey_with_alpha_is_grey(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", grey_alpha())
    np.testing.assert_array_equal(read_image(path, mono=True)[..., 0], GREY)


def test_16_bit_grey_with_alpha_is_grey(tmp_path: Path) -> None:
    """No common library writes it, so the file is put together here."""
    head = struct.pack(">IIBBBBB", 2, 1, 16, 4, 0, 0, 0)
    rows = b"\0" + struct.pack(">4H", 257 * 9, 0, 257 * 200, 65535)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows))
    path = tmp_path / "a.png"
    path.write_bytes(data + png_chunk(b"IEND", b""))
    assert read_image(path, mono=True)[..., 0].tolist() == [[9, 200]]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp"])
def test_colour_under_alpha_stays_as_it_is(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", rgba(), **options)
    np.testing.assert_array_equal(read_image(path), RGB[..., ::-1])


def test_16_bit_colour_with_alpha(tmp_path: Path) -> None:
    import cv2

    pixels = np.dstack([RGB[..., ::-1], ALPHA]).astype(np.uint16) * 257
    for suffix in (".png", ".tiff"):
        assert cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), RGB[..., ::-1])


def test_a_tiff_whose_alpha_would_be_blended_is_refused(tmp_path: Path) -> None:
    """OpenCV multiplies colour by alpha there, which nothing brings back; an opaque one is read."""
    with pytest.raises(InputError, match="8-bit TIFF with transparent pixels"):
        read_image(save(tmp_path / "a.tiff", rgba()))
    picture = rgba()
    picture.putalpha(255)
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.tiff", picture)), RGB[..., ::-1])
    cmyk = Image.fromarray(RGB).convert("CMYK")
    np.testing.assert_allclose(read_image(save(tmp_path / "c.tiff", cmyk)), RGB[..., ::-1], atol=1)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp"])
def test_a_palette_is_looked_up(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a{suffix}", palette())), RGB[..., ::-1])


def test_a_palette_with_transparent_entries_is_looked_up(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", palette(), transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(read_image(path), RGB[..., ::-1])


def test_a_transparent_colour_is_a_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RGB), transparency=(10, 20, 30))
    np.testing.assert_array_equal(read_image(path), RGB[..., ::-1])


def test_jpeg_of_a_printer_and_progressive_and_grey(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.full((16, 16, 3), (200, 100, 50), np.uint8))
    for name, picture, options in (
        ("cmyk.jpg", smooth.convert("CMYK"), {}),
        ("progressive.jpeg", smooth, {"progressive": True}),
        ("grey.JPG", smooth.convert("L"), {}),
    ):
        path = save(tmp_path / name, picture, quality=100, **options)
        np.testing.assert_allclose(read_image(path), bgr_of(picture), atol=2)


def oriented(path: Path, orientation: int, pixels: NDArray[np.uint8]) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}
    return save(path, Image.fromarray(pixels), exif=exif, **options.get(path.suffix, {}))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_every_format_alike(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Three coloured corners tell all eight apart; Pillow says what is right."""
    corners = np.zeros((16, 24, 3), np.uint8)
    corners[:8, :8] = (250, 0, 0)
    corners[:8, 16:] = (0, 250, 0)
    corners[8:, :8] = (0, 0, 250)
    path = oriented(tmp_path / f"a{suffix}", orientation, corners)
    upright = ImageOps.exif_transpose(Image.open(path))
    read = read_image(path)
    assert read.shape == ((24, 16, 3) if orientation >= 5 else (16, 24, 3))
    np.testing.assert_allclose(read, bgr_of(upright), atol=4)
    assert read.flags.c_contiguous
    assert exif_orientation(path.read_bytes()) == orientation


def test_orientations_undo_as_exif_defines_them() -> None:
    pixels = np.arange(6).reshape(2, 3)
    assert [turn_upright(pixels, k).ravel().tolist() for k in (1, 3, 6, 8)] == [
        [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 4, 1, 5, 2], [2, 5, 1, 4, 0, 3],
    ]  # fmt: skip


def jpeg_with(exif: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "JPEG")
    body = b"Exif\0\0" + exif
    data = buffer.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"MM\0*",
        b"MM\0*" + struct.pack(">I", 4000),
        b"MM\0*" + struct.pack(">IH", 8, 60000),
        b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 77, 0),
        b"XX\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0),
    ],
)
def test_a_broken_note_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    data = jpeg_with(exif)
    assert exif_orientation(data) == 1
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg").shape == (8, 8, 3)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPEXIF", b"BM", b"II*\0"]
)
def test_of_what_is_no_whole_file_nothing_is_known(data: bytes) -> None:
    assert exif_orientation(data) == 1


def test_both_byte_orders_are_read() -> None:
    for order, head in ((">", b"MM\0*"), ("<", b"II*\0")):
        exif = head + struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
        assert exif_orientation(jpeg_with(exif)) == 6


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """One class with a good image, and a place for a defect and its mask."""
    root = tmp_path / "part"
    for folder in ("train/good", "test/dent", "ground_truth/dent"):
        (root / folder).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    save(root / "train/good/0.png", Image.fromarray(pixels))
    return root


@pytest.mark.parametrize(
    ("of_image", "of_mask", "upright_mask", "kind"),
    [
        (6, 6, False, None),  # Turned together.
        (6, 1, True, None),  # Drawn on what a viewer shows: the size proves it.
        (6, 1, False, "mask-size"),  # Drawn on the rows as they are stored.
        (3, 1, False, "mask-orientation"),  # Half a turn: the size proves nothing.
        (3, 3, False, None),
        (1, 2, False, "mask-orientation"),
        (6, 8, False, "mask-orientation"),
    ],
)
def test_a_mask_that_is_turned_otherwise_than_its_image_is_found(
    part: Path, of_image: int, of_mask: int, upright_mask: bool, kind: str | None
) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    oriented(part / "test/dent/0.png", of_image, stored)
    mask = np.zeros((16, 12) if upright_mask else (12, 16), np.uint8)
    mask[2:5, 3:9] = 255
    oriented(part / "ground_truth/dent/0_mask.png", of_mask, mask)
    findings = check_dataset(load_dataset(part)).findings
    found = [f for f in findings if f.kind.startswith("mask")]
    assert [f.kind for f in found] == ([kind] if kind else [])
    if kind == "mask-size":
        assert "(16x12 for 12x16, since EXIF turns one of the two)" in found[0].message


def test_an_image_and_a_mask_with_the_same_note_stay_on_each_other(part: Path) -> None:
    for orientation in range(1, 9):
        stored = np.zeros((12, 16, 3), np.uint8)
        stored[1:4, 9:15] = 255
        image = oriented(part / "test/dent/0.png", orientation, stored)
        mask = oriented(part / "ground_truth/dent/0_mask.png", orientation, stored[..., 0])
        np.testing.assert_array_equal(read_image(image)[..., 0] > 0, read_mask(mask))


def test_names_with_blanks_umlauts_and_capitals(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB)
    names = ["Größe 1.PNG", "b.TIFF", "c.BMP", "零件.Jpeg", "d.WebP"]
    for name in names:
        save(tmp_path / name, picture)
    (data,) = load_dataset(tmp_path).classes
    assert sorted(s.name for s in data.train) == sorted(names)
    assert all(read_image(s.path).shape == (1, 4, 3) for s in data.train)
