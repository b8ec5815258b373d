"""From a file to what an encoder takes: arrays as they are, images as they were prepared for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv.arrays import read_array
from edgeqkv.errors import InputError
from edgeqkv.model.pixels import normalized
from edgeqkv.reading import check_file
from edgeqkv.run.images import read_image

__all__ = ["read_inputs"]

# The authors' ImageNet script enlarges an image by so much before it cuts out the middle; the others cut nothing off.
_ENLARGED: Final = {"vision-imagenet": 256 / 224}


def read_inputs(path: Path, config: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Inputs ``[n, …]`` from a file.

    Args:
        path: ``.npy`` with one input or several, as the model takes them; or an image, for a model of images.
        config: the encoder's dimensions, as the manifest has them.

    Raises:
        InputError: the file is missing or damaged, or is no input of this model.
        MissingExtra: it is an image, and Pillow is not installed.
    """
    check_file(path, InputError)
    if path.suffix.lower() == ".npy":
        return _array(path, config)
    if config["input"]["kind"] != "image":
        raise InputError(f"{path} is no .npy file, and this model takes {config['input']['kind']}")
    return _image(path, config)


def _array(path: Path, config: Mapping[str, Any]) -> npt.NDArray[Any]:
    array = read_array(path)
    dims = {"tokens": 1, "features": 2, "image": 3}[config["input"]["kind"]]
    return array[None] if array.ndim == dims else array


def _image(path: Path, config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    input_ = config["input"]
    if input_["mean"] is None:
        raise InputError(
            f"how the images of '{config['task']}' were normalized is not known; export the model with --mean and "
            f"--std, or give an .npy file of normalized pixels"
        )
    size, channels = input_["size"], input_["channels"]
    if channels not in (1, 3):
        raise InputError(f"{path} is an image, and the model has {channels} channels; give an .npy file")
    pixels = read_image(path, channels, size, _ENLARGED.get(config["task"], 1.0))
    return np.ascontiguousarray(normalized(pixels.transpose(2, 0, 1)[None], input_["mean"], input_["std"]))
