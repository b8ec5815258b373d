"""onnxruntime-qnn: sessions that run whole graphs on Hexagon's NPU (HTP), or on the simulation of it here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import onnxruntime as ort

from edgeqkv.extras import needed_for

__all__ = ["PACKAGE", "VTCM_MB", "qnn_session"]

PACKAGE: Final = "onnxruntime-qnn"

VTCM_MB: Final = 8
"""What the NPUs of these chips have."""

_PROVIDER: Final = "QNNExecutionProvider"

_MODELS: Final = {"v73": "43", "v75": "57", "v79": "69", "v81": "87"}
"""The architecture of the NPU → QNN's number of a chip that has it: SM8550, SM8650, SM8750, SM8850."""

_NO_CPU: Final = {"session.disable_cpu_ep_fallback": "1"}
_SILENT, _ERRORS = 4, 3


@cache
def _library() -> Path:
    """The provider's library, registered once a process."""
    with needed_for("compiling for Hexagon"):
        import onnxruntime_qnn

    path = Path(onnxruntime_qnn.get_library_path())
    ort.register_execution_provider_library(_PROVIDER, str(path))
    return path


def qnn_session(path: Path, soc: str, entries: Mapping[str, str], *, whole: bool = True) -> ort.InferenceSession:
    """A graph, compiled for the NPU of a chip.

    Args:
        path: its file.
        soc: the chip.
        entries: more of the session's configuration.
        whole: refuse a graph of which a part would be left to the CPU.
    """
    library = _library()
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS if whole else _SILENT
    options.intra_op_num_threads = 1
    for key, value in {**(_NO_CPU if whole else {}), **entries}.items():
        options.add_session_config_entry(key, value)
    options.add_provider_for_devices(
        [device for device in ort.get_ep_devices() if device.ep_name == _PROVIDER],
        {
            "backend_path": str(library.with_name("libQnnHtp.so")),
            "htp_arch": soc.removeprefix("v"),
            "soc_model": _MODELS[soc],
            "htp_graph_finalization_optimization_mode": "3",
            "vtcm_mb": str(VTCM_MB),
            "offload_graph_io_quantization": "0",  # which would leave the logits' last step to the CPU
            # Else the size of the spill buffer is not asked for, and 0 is written.
            **({"enable_htp_spill_fill_buffer": "1"} if "ep.context_enable" in entries else {}),
        },
    )
    return ort.InferenceSession(str(path), options)
