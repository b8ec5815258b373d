"""Pictures: what one shows is what the model gets, or it is refused with the reason.

What a picture shows is more than its pixels: EXIF says how it is turned, a palette what its numbers mean, and 16-bit
values are dark to bright as 8-bit ones are. Where it depends on who looks, it is refused: transparent parts, which show
what lies behind, several frames, and numbers whose range nobody states.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.errors import InputError
from edgeqkv.extras import needed_for
from edgeqkv.reading import check_file, parsed

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "MOST_PIXELS", "read_image"]

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened. Pillow knows others, and starts a PostScript interpreter for one of them."""

MOST_PIXELS: Final = 100_000_000
"""Of a picture, decoded or enlarged: 300 MB in RGB. The header says how many there would be."""

_SIXTEEN_BITS: Final = ("I;16", "I;16L", "I;16B", "I;16N")


def read_image(path: Path, channels: int, size: int, enlarged: float = 1.0) -> npt.NDArray[np.uint8]:
    """The middle of a picture, ``[size, size, channels]``; its shorter side, made so many times as large, fills it.

    Args:
        path: a picture in one of `FORMATS`.
        channels: 1 for grey, 3 for RGB.
        size: pixels of a side.
        enlarged: 1, or more where a margin is cut off.

    Raises:
        InputError: it cannot be read, has more than `MOST_PIXELS`, or does not say what it shows.
        MissingExtra: Pillow is not installed.
    """
    with needed_for("reading an image"):
        from PIL import Image
    check_file(path, InputError, "picture")
    picture = _shown(path, "L" if channels == 1 else "RGB")
    ratio = size * enlarged / min(picture.size)
    width, height = (max(size, round(side * ratio)) for side in picture.size)
    _check_size(path, width, height, "would be enlarged to")
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    cut = picture.crop((left, top, left + size, top + size))
    return np.asarray(cut, np.uint8).reshape(size, size, channels)


def _shown(path: Path, mode: str) -> Image:
    """A picture the right way up, in a mode of 8 bits."""
    from PIL import Image, ImageOps

    with (
        parsed(f"{path} cannot be read as an image", f"Save it as one of {', '.join(FORMATS)}"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of Pillow's own limit, for one
        try:
            opened = Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"{path} is too large: {error}. At most {MOST_PIXELS:,} pixels are decoded") from error
        with opened:
            _check_size(path, *opened.size, "has")
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":  # a photo with a preview behind it
                raise InputError(f"{path} has {opened.n_frames} frames; save the one that is meant as a PNG")  # type: ignore[attr-defined]
            return ImageOps.exif_transpose(_opaque(path, opened)).convert(mode)


def _check_size(path: Path, width: int, height: int, what: str) -> None:
    if not width or not height:
        raise InputError(f"{path} has {width} × {height} pixels; there is nothing to see")
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{path} {what} {width} × {height} pixels, and {MOST_PIXELS:,} are the most that are decoded; cut or scale "
            f"it down"
        )


def _opaque(path: Path, picture: Image) -> Image:
    """A picture of 8 bits without transparency; decoded, with the EXIF of the file."""
    from PIL import Image

    if picture.mode in _SIXTEEN_BITS:
        if "transparency" in picture.info:
            raise InputError(f"{path} has a transparent grey of 16 bits; save it without transparency")
        exif = picture.getexif()
        levels = np.asarray(picture).astype(np.float32) / 257  # 65535 is 255
        picture = Image.fromarray(levels.round().astype(np.uint8))
        picture.getexif().update(exif)
        return picture
    if picture.mode in ("I", "F"):
        raise InputError(
            f"{path} has pixels of 32 bits, and does not say which number is white; save it with 8 or 16 bits, or give "
            f"an .npy file of normalized pixels"
        )
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if np.asarray(alpha).min() < 255:
            raise InputError(
                f"{path} is transparent in parts, and shows what lies behind; save it on the background that is meant"
            )
    return picture
