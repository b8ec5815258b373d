"""What a picture shows is what the model gets."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeqkv.errors import InputError
from edgeqkv.run.images import FORMATS, MOST_PIXELS, read_image

SIZE = 8
RAMP = (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) * 4).astype(np.uint8)
"""A grey picture without any symmetry, 0 to 252."""


def saved(picture: Image.Image, path: Path, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def grey(path: Path) -> np.ndarray[Any, Any]:
    return read_image(path, 1, SIZE)[..., 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_exif_says(orientation: int, tmp_path: Path) -> None:
    stored = Image.fromarray(RAMP)
    exif = stored.getexif()
    exif[0x0112] = orientation
    # https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf: where row 0 and column 0 of what is stored are seen.
    shown = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: RAMP.T[:, ::-1],
        7: RAMP.T[::-1, ::-1],
        8: RAMP.T[::-1],
    }[orientation]
    for name in ("photo.png", "photo.tiff", "photo.webp"):
        options = {"lossless": True} if name.endswith("webp") else {}
        difference = grey(saved(stored, tmp_path / name, exif=exif, **options)).astype(int) - shown
        assert np.abs(difference).max() <= 1, name  # WebP keeps colours


def test_a_turned_picture_of_16_bits(tmp_path: Path) -> None:
    stored = Image.fromarray(RAMP.astype(np.uint16) * 257)
    exif = stored.getexif()
    exif[0x0112] = 6
    assert np.array_equal(grey(saved(stored, tmp_path / "p.png", exif=exif)), RAMP.T[:, ::-1])


@pytest.mark.parametrize("name", ["p.png", "p.tiff"])
def test_16_bits_are_as_bright_as_8(name: str, tmp_path: Path) -> None:
    assert np.array_equal(grey(saved(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / name)), RAMP)


def test_colours_of_16_bits(tmp_path: Path) -> None:
    rows = np.stack([RAMP, RAMP[::-1], RAMP.T], -1).astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    write_png(tmp_path / "p.png", SIZE, SIZE, raw, depth=16, colour=2)
    assert np.array_equal(read_image(tmp_path / "p.png", 3, SIZE), (rows // 257).astype(np.uint8))


@pytest.mark.parametrize("values", [RAMP.astype(np.int32) * 1000, RAMP.astype(np.float32) / 255])
def test_numbers_without_a_range_are_refused(values: np.ndarray[Any, Any], tmp_path: Path) -> None:
    path = saved(Image.fromarray(values), tmp_path / "p.tiff")
    with pytest.raises(InputError, match="does not say which number is white"):
        grey(path)


def test_palettes_opaque_alpha_and_cmyk(tmp_path: Path) -> None:
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)
    picture = Image.fromarray(colours)
    inks = Image.fromarray(np.concatenate([255 - colours, np.zeros((SIZE, SIZE, 1), np.uint8)], -1), "CMYK")
    opaque = picture.copy()
    opaque.putalpha(255)
    for name, each in (("alpha.png", opaque), ("inks.tiff", inks), ("palette.png", picture.quantize(256))):
        difference = read_image(saved(each, tmp_path / name), 3, SIZE).astype(int) - colours
        assert np.abs(difference).max() <= (4 if "palette" in name else 0), name
    assert grey(saved(Image.fromarray(RAMP > 100), tmp_path / "bits.png")).max() == 255


def test_what_is_transparent_shows_what_lies_behind(tmp_path: Path) -> None:
    half = Image.fromarray(RAMP).convert("LA")
    half.putalpha(Image.fromarray(RAMP))
    palette = Image.fromarray(RAMP // 4 % 3, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    for path in (
        saved(half, tmp_path / "grey.png"),
        saved(half.convert("RGBA"), tmp_path / "colour.png"),
        saved(palette, tmp_path / "palette.png", transparency=1),
        saved(palette, tmp_path / "palette.gif", transparency=1),
    ):
        with pytest.raises(InputError, match="is transparent in parts"):
            read_image(path, 3, SIZE)
    with pytest.raises(InputError, match="transparent grey of 16 bits"):
        grey(saved(Image.fromarray(RAMP.astype(np.uint16)), tmp_path / "sixteen.png", transparency=4))


def test_several_frames_are_no_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP.T)]
    for name in ("p.gif", "p.tiff", "p.webp", "p.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match="has 2 frames; save the one that is meant"):
            grey(tmp_path / name)


def test_only_named_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def ghostscript(*_: Any, **__: Any) -> None:
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    for kind in ("EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "ICNS"):
        path = tmp_path / f"p.{kind.lower()}"
        Image.fromarray(np.stack([RAMP] * 3, -1)).resize((16, 16)).save(path, kind)
        for name in (path, path.rename(tmp_path / f"{kind}.png")):
            with pytest.raises(InputError, match=r"there is no such|cannot be read as an image"):
                read_image(name, 3, SIZE)
    assert "EPS" not in FORMATS


def test_giants_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    for width, height in ((30_000, 30_000), (10_001, 10_000), (1_000_000_000, 1), (MOST_PIXELS + 1, 1)):
        write_png(tmp_path / "giant.png", width, height, b"")
        with pytest.raises(InputError, match="pixels"):
            grey(tmp_path / "giant.png")


def test_a_sliver_is_refused_before_it_is_enlarged(tmp_path: Path) -> None:
    path = saved(Image.new("L", (60_000, 1)), tmp_path / "sliver.png")
    with pytest.raises(InputError, match="would be enlarged to 3840000 × 64 pixels"):
        read_image(path, 1, 64)


def test_no_damaged_file_ends_in_a_foreign_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "p"
    for kind in FORMATS:
        whole = io.BytesIO()
        Image.fromarray(RAMP).save(whole, kind)
        for _ in range(60):
            damaged = bytearray(whole.getvalue())
            for _ in range(random.integers(1, 6)):
                damaged[random.integers(len(damaged))] = random.integers(256)
            path.write_bytes(damaged[: random.integers(1, len(damaged) + 1)])
            with suppress(InputError):
                assert read_image(path, 3, SIZE).shape == (SIZE, SIZE, 3)


def write_png(path: Path, width: int, height: int, raw: bytes, depth: int = 8, colour: int = 0) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
