"""The JSON Schema of ``manifest.json``, for readers in other languages (docs/manifest.schema.json).

Made of the records in `edgeqkv.bundle.manifest`, so that it says what is written and nothing else:

    python -m edgeqkv.bundle.schema > docs/manifest.schema.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from edgeqkv.bundle.manifest import FORMAT, Manifest
from edgeqkv.model.dtypes import Dtype

__all__ = ["json_schema"]


def json_schema() -> str:
    """The schema of manifests of this format, as a document."""
    schema: dict[str, Any] = Manifest.model_json_schema(mode="serialization")
    schema["properties"]["format"] = {"const": FORMAT, "title": "Format"}
    for record in schema["$defs"].values():  # what the records check in code
        fields = record.get("properties", {})
        if "numpy_dtype" in fields:
            fields["dtype"]["enum"] = list(Dtype)
            fields["numpy_dtype"]["enum"] = [dtype.numpy.name for dtype in Dtype]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:edgeqkv:manifest:{FORMAT}",
    }
    return json.dumps(head | schema, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
