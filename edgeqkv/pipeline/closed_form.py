"""The closed form of a conversion, kept beside the distillation that goes on from it.

Solving a large model takes longer than a run that was killed may lose.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from edgeqkv.checkpoints import load
from edgeqkv.checkpoints.writing import check_writable, write
from edgeqkv.convert.conversion import Conversion
from edgeqkv.errors import CheckpointError, InputError, UnsupportedError
from edgeqkv.model.model import Model
from edgeqkv.reading import is_file, read_json

__all__ = ["identity_of", "kept_or_made"]

_CHECKPOINT: Final = "closed.pt"
_FACTS: Final = "closed.json"
_SAMPLED: Final = 256  # numbers of each end of a weight


def identity_of(teacher: Model, **asked: Any) -> dict[str, Any]:
    """What another conversion would differ in: the model, and what was asked for, in JSON's values."""
    seen = 0
    for weight in teacher.weights:
        numbers = weight.tensor.reshape(-1)
        for end in (numbers[:_SAMPLED], numbers[-_SAMPLED:]):
            seen = zlib.crc32(end.float().numpy().tobytes(), seen)
    return {"model": [teacher.parameters, seen], **{name: _plain(value) for name, value in asked.items()}}


def kept_or_made(folder: Path, identity: Mapping[str, Any], make: Callable[[], Conversion]) -> Conversion:
    """The conversion that a run before kept in a folder, or else what is made, which is then kept.

    Raises:
        InputError: what was kept there is of another one.
    """
    facts, checkpoint = folder / _FACTS, folder / _CHECKPOINT
    if is_file(facts):
        kept = read_json(facts, "record of a distillation")
        if kept.get("identity") != identity:
            raise InputError(f"{folder} is of another conversion; delete it to begin anew, or give another --out")
        try:
            return Conversion(load(checkpoint), tuple(kept["lost"]), tuple(kept["layers"]))
        except CheckpointError:  # it could not be written
            return make()
    made = make()
    try:
        check_writable(made.model)
        write(made.model, checkpoint, overwrite=True)
    except UnsupportedError:  # the format has no place for it: it is made again each time
        checkpoint.unlink(missing_ok=True)
    partial = facts.with_name(f"{facts.name}.partial")
    record = {"identity": identity, "lost": made.lost, "layers": made.layers}
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.replace(facts)
    return made


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))
