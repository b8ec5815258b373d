"""What swift-transformers' runner reads beside a package, to make its tokenizer: two small JSON files.

Its ``AutoTokenizer`` insists on a ``config.json``, of whose content it looks at ``model_type`` where the tokenizer's
own configuration names no class; and finds that class in ``tokenizer_config.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.files import TOKENIZER_CONFIG
from edgeqkv.model.model import Model
from edgeqkv.reading import is_file, read_json

__all__ = ["CONFIG", "write_files"]

CONFIG: Final = "config.json"

_CLASS: Final = "PreTrainedTokenizerFast"
"""Any that is read from a ``tokenizer.json`` alone."""


def write_files(directory: Path, model: Model, spec: TargetSpec) -> None:
    """Write them: a Hugging Face model's own, and for others the least that the runner takes.

    Raises:
        InputError: one that lies beside the model or its tokenizer is damaged.
    """
    _write(directory / CONFIG, {"model_type": "edgeqkv"} | _beside(model.source.folder / CONFIG))
    if spec.tokenizer is not None:
        config = _beside(spec.tokenizer.with_name(TOKENIZER_CONFIG))
        _write(directory / TOKENIZER_CONFIG, {**config, "tokenizer_class": config.get("tokenizer_class") or _CLASS})


def _beside(path: Path) -> dict[str, Any]:
    """The content of a file; nothing if there is none."""
    return read_json(path, "configuration") if is_file(path) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
