"""Writing an encoder as ``model.pte``: one method of fixed shapes."""

from __future__ import annotations

from pathlib import Path

import torch

from edgeqkv.backends import EncoderRequest
from edgeqkv.backends.encoders import input_spec, output_spec
from edgeqkv.backends.executorch.encoder_module import EncoderModule
from edgeqkv.backends.executorch.export import FILE, PACKAGES, Serialized, planned_memory
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.extras import installed_version
from edgeqkv.model.model import EncoderModel, Tokens
from edgeqkv.progress import Report

with third_party_notices_silenced():
    from edgeqkv.backends.executorch.lowering import lower, write

__all__ = ["export_encoder"]

_METHOD = "forward"


def export_encoder(model: EncoderModel, directory: Path, request: EncoderRequest, report: Report) -> EncoderArtifact:
    """Write ``model.pte`` into ``directory`` and describe it."""
    module = EncoderModule(model).eval()
    config = model.config
    ids = isinstance(config.input, Tokens)
    example = torch.zeros(request.batch, *config.input.shape, dtype=torch.long if ids else torch.float32)
    with third_party_notices_silenced(), torch.no_grad():
        report(f"trace {_METHOD}", None)
        traced = {_METHOD: torch.export.export(module, (example,), strict=False)}
        report("lower to XNNPACK", 0.0)
        program, delegation = lower(traced, {}, Serialized(module, 1, report))
        report("write the program", None)
        write(program, directory / FILE)
    versions = {name: installed_version(name) for name in PACKAGES}
    return EncoderArtifact(
        target="executorch",
        form=request.form,
        weights=request.weights,
        batch=request.batch,
        file=FILE,
        function=_METHOD,
        input=input_spec(config, request.batch, "int64"),
        output=output_spec(config, request.batch),
        values=config.input.vocab_size if isinstance(config.input, Tokens) else None,
        versions={name: version for name, version in versions.items() if version is not None},
        details={
            "delegation": delegation,
            "file_bytes": (directory / FILE).stat().st_size,
            "planned_memory_bytes": planned_memory(ProgramFile(directory / FILE).plans()),
        },
    )
