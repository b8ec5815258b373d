"""What any ``.pte`` says of itself; nothing of ExecuTorch is imported."""

from __future__ import annotations

import struct
from pathlib import Path

from edgeqkv.backends.executorch.methods import called, ends
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.inspection import FileFacts, FunctionFacts
from edgeqkv.errors import BundleError
from edgeqkv.reading import check_file

__all__ = ["inspect"]


def inspect(path: Path) -> FileFacts:
    """Read a program's flatbuffer.

    Raises:
        BundleError: it is missing or damaged.
    """
    size = check_file(path, BundleError, "ExecuTorch program")
    file = ProgramFile(path)
    try:
        plans = file.plans()
        functions, backends, constants = [], set(), []
        for name in file.method_names():
            inputs, outputs = ends(file, name)
            operators, delegates = called(file, name)
            if name not in plans and not inputs:  # it gives back a number that was written into the file
                constants.append(name)
                continue
            backends |= set(delegates)
            buffers = plans[name].buffers if name in plans else ()
            functions.append(
                FunctionFacts(
                    name=name,
                    inputs={key: str(each) for key, each in inputs.items()},
                    outputs={key: str(each) for key, each in outputs.items()},
                    states={each.name: f"{each.dtype}{list(each.shape)}" for each in buffers},
                    operators=dict((delegates + operators).most_common()),
                )
            )
        memory = sum(
            {(name, arena): size for name, plan in plans.items() for arena, size in plan.arenas.items()}.values()
        )
        segments = sum({each.offset: each.size for each in file.segments()}.values())  # equal ones lie at one place
    except (struct.error, UnicodeDecodeError, LookupError) as error:
        raise BundleError(f"{path} is damaged: it cannot be read as an ExecuTorch program") from error
    return FileFacts(
        path=path,
        title="ExecuTorch program",
        bytes=size,
        functions=tuple(functions),
        needs=tuple(sorted(backends)),
        weights={"segments": segments} if segments else {},
        memory=memory,
        properties={"constant methods": ", ".join(constants)} if constants else {},
    )
