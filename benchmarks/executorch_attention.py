"""One token's attention in ExecuTorch, by how the query heads are handed to ``custom_sdpa``.

    python -m benchmarks.executorch_attention [--repeats N]

The operator goes through the state once for every query head. Given the heads of a group as if they were that many
positions of one head, it goes through it once for a KV head: the same numbers, for a token that comes after as many
others as a group has heads at least. Layers of attention alone, over states that are too large for the cache together;
both programs take turns in one process, on one thread, whose processor time is counted, and what they compute is
compared with torch.

What exports do is the second where a call is one token behind 128 others or more, else the first.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import save
from edgeqkv.backends.executorch._compat import edge_config
from edgeqkv.backends.executorch.quiet import native_stderr_captured, third_party_notices_silenced
from edgeqkv.extras import installed_version

LAYERS, KV_HEADS, GROUP, DIM, CONTEXT = 6, 4, 4, 64, 2048
FILLS = (128, 1024, 2000, 2048)
Tensor = torch.Tensor
Attend = Callable[[Tensor, Tensor, int], Tensor]


def by_query_head(q: Tensor, state: Tensor, position: int) -> Tensor:
    """As exports do it near the start, and in prefill: ``q [1, 1, H, D]`` attends to ``state [1, T, KV, D]``."""
    result: Tensor = torch.ops.llama.custom_sdpa(q, state, state, position, None, 0.0, True)
    return result


def by_kv_head(q: Tensor, state: Tensor, position: int) -> Tensor:
    """With a group's heads as positions. Not causal, so that the operator reads up to the start and all of them."""
    torch._check(position >= GROUP - 1)
    rows = q.view(1, KV_HEADS, GROUP, DIM).transpose(1, 2).contiguous()
    mixed = torch.ops.llama.custom_sdpa(rows, state, state, position - (GROUP - 1), None, 0.0, False)
    return mixed.transpose(1, 2).reshape(q.shape)


WAYS: dict[str, Attend] = {"a query head": by_query_head, "a KV head": by_kv_head}


class Layers(torch.nn.Module):
    """``forward(q [1, 1, H, D], position [1], *states) → [1, 1, H, D]``; a layer asks with the result of the last."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def forward(self, q: Tensor, position: Tensor, *states: Tensor) -> Tensor:
        at: Any = position[0].item()
        torch._check(at >= 0)
        torch._check(at < CONTEXT)
        for state in states:
            q = self.attend(q, state, at)
        return q


def export(attend: Attend, path: Path, inputs: list[Tensor]) -> None:
    """Write layers of attention as a program."""
    from executorch.exir import ExecutorchBackendConfig, to_edge
    from executorch.exir.passes import MemoryPlanningPass

    with torch.no_grad():
        program = torch.export.export(Layers(attend).eval(), tuple(inputs), strict=False)
    planning = MemoryPlanningPass(alloc_graph_input=False)
    edge = to_edge(program, compile_config=edge_config())
    with path.open("wb") as file:
        edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).write_to_file(file)


def expected(q: Tensor, states: list[Tensor], position: int) -> Tensor:
    """The same in torch."""
    for state in states:
        keys = state[0, : position + 1].transpose(0, 1).repeat_interleave(GROUP, 0)
        weights = (q[0].transpose(0, 1) @ keys.transpose(1, 2) * DIM**-0.5).softmax(-1)
        q = (weights @ keys).transpose(0, 1)[None]
    return q


def measure(methods: dict[str, Any], repeats: int, q: Tensor, states: list[Tensor]) -> dict[str, Any]:
    """By way: least milliseconds of a processor for a layer at each fill, and the largest difference from torch."""
    rows: dict[str, Any] = {name: {"layer_ms": {}, "max_abs_error": 0.0} for name in methods}
    for fill in FILLS:
        times: dict[str, list[float]] = {name: [] for name in methods}
        wanted = expected(q, states, fill - 1)
        for _ in range(repeats):
            for name in random.sample(list(methods), len(methods)):
                start = time.thread_time()
                (result,) = methods[name].execute([q, torch.tensor([fill - 1]), *states])
                times[name].append((time.thread_time() - start) * 1e3 / LAYERS)
                error = float((result - wanted).abs().max())
                rows[name]["max_abs_error"] = max(rows[name]["max_abs_error"], error)
        for name, values in times.items():
            rows[name]["layer_ms"][fill] = round(min(values), 3)
    return rows


def main() -> None:
    """Export both, measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    repeats: int = parser.parse_args().repeats
    torch.manual_seed(0)
    torch.set_num_threads(1)
    q = torch.randn(1, 1, KV_HEADS * GROUP, DIM)
    states = [torch.randn(1, CONTEXT, KV_HEADS, DIM) for _ in range(LAYERS)]
    with tempfile.TemporaryDirectory(prefix="edgeqkv-attention-") as scratch, native_stderr_captured():
        with third_party_notices_silenced():
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers the operator
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            runtime = Runtime.get()
            portable_lib._unsafe_reset_threadpool(1)
            methods = {}
            for name, attend in WAYS.items():
                path = Path(scratch) / f"{attend.__name__}.pte"
                export(attend, path, [q, torch.tensor([100]), *states])
                methods[name] = runtime.load_program(path).load_method("forward")
        rows = measure(methods, repeats, q, states)
    sizes = {"layers": LAYERS, "kv_heads": KV_HEADS, "group": GROUP, "head_dim": DIM, "context": CONTEXT}
    versions = {package: installed_version(package) for package in ("executorch", "torch")}
    save("executorch_attention", {**sizes, "threads": 1, "versions": versions, "rows": rows})
    print(f"{'the state is read once for':28}" + "".join(f"{f'{fill} ms':>12}" for fill in FILLS) + f"{'error':>12}")
    for name, row in rows.items():
        cells = "".join(f"{row['layer_ms'][fill]:12.3f}" for fill in FILLS)
        print(f"{name:28}{cells}{row['max_abs_error']:12.1e}")


if __name__ == "__main__":
    main()
