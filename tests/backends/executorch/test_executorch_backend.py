from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, VARIANTS, read_golden
from matrix import sampled

import edgeqkv
from edgeqkv import BundleError, ContextFull
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.facts import facts
from edgeqkv.backends.target import TargetSpec, forms_of
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

# float32 in another order of summation than the original's. Measured: 3.2e-6 with logits up to 4.5.
TOLERANCE = 1e-4

# fp16 keeps 11 bits, so that what enters a product is off by up to 4.9e-4 of itself, and two layers add up.
# Relative to the largest logit. Measured: 9e-4.
HALF_TOLERANCE = 3e-3


@dataclass(frozen=True)
class Export:
    """An export and where it lies."""

    model: Model
    directory: Path
    artifact: Artifact

    @property
    def file(self) -> ProgramFile:
        return ProgramFile(self.directory / "model.pte")

    def open(self) -> Session:
        return open_artifact(self.directory, self.artifact, "executorch")


Exported = Callable[..., Export]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exports one of the eight checkpoints, once for all tests: each takes seconds."""
    done: dict[tuple[str, ...], Export] = {}

    def export(name: str, form: str = "stock", weights: str = "fp32", state: str = "fp32") -> Export:
        key = (name, form, weights, state)
        if key not in done:
            spec = TargetSpec(form, weights, state, context=64, chunk=16, bos_id=7, eos_token_ids=(3, 5))
            done[key] = write(edgeqkv.load(read_golden(name).path), tmp_path_factory.mktemp("pte"), spec)
        return done[key]

    return export


def write(model: Model, directory: Path, spec: TargetSpec) -> Export:
    stored = model.with_context(spec.context).with_weights(spec.weights)
    return Export(stored, directory, TARGET.export(stored, directory, spec, silent))


def every_position(session: Session, ids: np.ndarray, prompt: int) -> np.ndarray:
    """Logits after a prompt and after every further token, in a state that is full of other tokens' rows."""
    session.reset()
    session.feed(ids[::-1].copy())
    session.reset()
    return np.stack([session.feed(ids[:prompt]), *(session.feed([token]) for token in ids[prompt:])])


CASES = sampled(
    [
        *((name, "stock") for name in reversed(VARIANTS)),
        *((name, form) for form in ("static", "portable") for name in ("k_eq_v_gqa", "q_eq_k")),
    ],
    lambda name, form: (name, form) if name in ("k_eq_v_gqa", "k_eq_v_mqa", "gqa") else None,  # other tests use them
    lambda name, _: VARIANTS[name].partition("+")[0],  # what is shared
    lambda name, _: VARIANTS[name].partition("+")[2],  # the heads
)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_it_computes_what_the_original_class_did(exported: Exported, name: str, form: str) -> None:
    golden, session = read_golden(name), exported(name, form).open()
    for prompt in (40, 1, 16, 17):  # across two chunk boundaries, within one, a whole one, across one
        logits = every_position(session, golden.ids, prompt)
        assert np.abs(logits - golden.logits[prompt - 1 :]).max() < TOLERANCE
    assert session.position == session.capacity == 64


@pytest.mark.parametrize("form", forms_of(TARGET, causal=True))
def test_a_full_context_is_refused_and_leaves_the_state_as_it_was(exported: Exported, form: str) -> None:
    golden, session = read_golden("k_eq_v_gqa"), exported("k_eq_v_gqa", form).open()
    session.feed(golden.ids[:60])
    with pytest.raises(ContextFull):
        session.feed(golden.ids[:5])
    assert session.position == 60
    assert np.abs(session.feed(golden.ids[60:]) - golden.logits[-1]).max() < TOLERANCE
    with pytest.raises(ContextFull):
        session.feed([1])


@pytest.mark.parametrize(("weights", "state"), [("fp16", "fp32"), ("fp16", "fp16")])
def test_half_precision_is_off_by_its_rounding_alone(exported: Exported, weights: str, state: str) -> None:
    golden, export = read_golden("k_eq_v_mqa"), exported("k_eq_v_mqa", weights=weights, state=state)
    expected = sequence_logits(export.model, golden.ids)
    session = export.open()
    logits = every_position(session, golden.ids, 40)
    assert np.abs(logits - expected[39:]).max() < HALF_TOLERANCE * np.abs(expected).max()
    assert session.precision == "fp16"
    assert session.state_bytes == export.model.state_bytes(64, 2 if state == "fp16" else 4)


def test_fp16_halves_the_file(exported: Exported) -> None:
    full, half = (exported("k_eq_v_mqa", weights=weights).directory / "model.pte" for weights in ("fp32", "fp16"))
    # What does not shrink: the program, and the norms.
    assert half.stat().st_size < 0.56 * full.stat().st_size


@pytest.mark.parametrize(
    "name", [pytest.param(case.values[0], marks=case.marks) for case in CASES if case.values[1] == "stock"]
)
def test_the_state_is_what_the_memory_plan_says(exported: Exported, name: str) -> None:
    export = exported(name)
    tensors = export.artifact.state_tensors
    roles = ["k", "v"] if VARIANTS[name].startswith(("qkv", "q=k-v")) else ["kv"]
    assert [(tensor.layer, tensor.role) for tensor in tensors] == [(layer, role) for layer in (0, 1) for role in roles]
    assert {tensor.shape for tensor in tensors} == {(1, 64, export.model.config.kv_heads, 8)}
    assert export.artifact.state_bytes == export.open().state_bytes == export.model.state_bytes(64, 4)


def test_separate_keys_and_values_plan_exactly_one_state_more(tmp_path: Path) -> None:
    # With a vocabulary so large, the logits are what activations need the most memory for; they are the same.
    sizes = {**TINY, "n_layer": 1, "vocab_size": 4096}
    exports = {}
    for variant in ("q-k=v+gqa2", "qkv+gqa2"):
        model = edgeqkv.load(write_random_checkpoint(tmp_path / f"{variant}.pt", variant, **sizes))
        (tmp_path / variant).mkdir()
        exports[variant] = write(model, tmp_path / variant, TargetSpec("stock", "fp32", "fp32", 48, 8))
    merged, separate = exports.values()
    state = merged.model.state_bytes(48, 4)
    assert separate.model.state_bytes(48, 4) == 2 * state
    plans = [export.file.plans()["forward"] for export in (merged, separate)]
    assert sum(plans[1].arenas.values()) - sum(plans[0].arenas.values()) == state
    assert separate.artifact.details["planned_memory_bytes"] - merged.artifact.details["planned_memory_bytes"] == state


def test_static_methods_share_one_state(exported: Exported) -> None:
    export = exported("k_eq_v_gqa", "static")
    plans = export.file.plans()
    assert set(plans) == {"prefill", "decode"}
    assert plans["prefill"].buffers == plans["decode"].buffers
    assert {(graph.name, graph.tokens, graph.fixed) for graph in export.artifact.graphs} == {
        ("prefill", 16, True),
        ("decode", 1, True),
    }
    assert export.artifact.details["planned_memory_bytes"] == (
        sum(export.artifact.details["planned_memory"].values()) - export.artifact.state_bytes
    )


def test_only_the_portable_form_does_without_custom_operators(exported: Exported) -> None:
    def custom(form: str) -> set[str]:
        file = exported("k_eq_v_gqa", form).file
        operators = set[str]().union(*map(file.operators, file.plans()))
        assert "aten::embedding.out" in operators
        # The runtime's own, executorch_prim, need no registration.
        return {name for name in operators if not name.startswith(("aten::", "executorch_prim::"))}

    assert custom("stock") == custom("static") == {"llama::update_cache.out", "llama::custom_sdpa.out"}
    assert custom("portable") == set()


@pytest.mark.parametrize("form", forms_of(TARGET, causal=True))
def test_a_tied_table_is_stored_once(exported: Exported, form: str) -> None:
    export = exported("k_eq_v_gqa", form)
    table = export.model.network.head.stored_bytes
    assert export.artifact.details["shared_bytes"] >= table
    # What is left is the program itself, which does not grow with the weights.
    overhead = (export.directory / "model.pte").stat().st_size - export.model.weight_bytes
    assert 0 < overhead < table


def test_an_untied_model_has_nothing_to_share_and_progress_reaches_the_end(tmp_path: Path) -> None:
    sizes = {**TINY, "n_layer": 1, "tie_word_embeddings": False}
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "untied.pt", "q-k=v+gqa2", **sizes))
    reports: list[tuple[str, float | None]] = []
    spec = TargetSpec("stock", "fp32", "fp32", 48, 16)
    artifact = TARGET.export(model, tmp_path, spec, lambda *report: reports.append(report))
    assert artifact.details["shared_bytes"] == 0
    ids = np.arange(48)
    logits = every_position(open_artifact(tmp_path, artifact, "executorch"), ids, 20)
    assert np.abs(logits - sequence_logits(model, ids)[19:]).max() < TOLERANCE

    assert list(dict(reports)) == ["trace forward", "lower to XNNPACK", "write the program"]
    fractions = [fraction for _, fraction in reports if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert len(set(fractions)) > 3


@pytest.mark.parametrize(("context", "chunk"), [(1, 1), (2, 2)])
def test_contexts_as_short_as_can_be(tmp_path: Path, context: int, chunk: int) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "short.pt", "q-k=v+gqa2", std=0.2, **{**TINY, "n_layer": 1})
    export = write(edgeqkv.load(checkpoint), tmp_path, TargetSpec("stock", "fp32", "fp32", context, chunk))
    ids = np.arange(40, 40 + context)
    expected = sequence_logits(export.model, ids)
    for prompt in range(1, context + 1):
        logits = every_position(export.open(), ids, prompt)
        assert np.abs(logits - expected[prompt - 1 :]).max() < TOLERANCE


@pytest.mark.parametrize("form", forms_of(TARGET, causal=True))
def test_metadata_is_what_the_runners_ask_for(exported: Exported, form: str) -> None:
    file = exported("k_eq_v_gqa", form).directory / "model.pte"
    from executorch.runtime import Runtime  # quiet once the export has imported it

    program = Runtime.get().load_program(file)

    def told(method: str) -> list[int]:
        return [int(value) for value in program.load_method(method).execute([])]

    assert told("get_max_seq_len") == [16]  # the most tokens a call takes, not the context
    assert told("get_max_context_len") == [64]
    assert told("get_vocab_size") == [257]
    assert told("get_n_layers") == [2]
    assert told("get_bos_id") == [7]
    assert told("get_eos_ids") == [3, 5]
    assert told("use_kv_cache") == [1]
    assert told("use_sdpa_with_kv_cache") == [form != "portable"]
    assert told("enable_dynamic_shape") == [form != "static"]


def test_a_program_says_what_it_is(exported: Exported) -> None:
    """The facts of the other formats' metadata; the state as the memory plan has it."""
    export = exported("k_eq_v_gqa", "stock")
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(export.directory / "model.pte")
    told = {name: program.load_method(name).execute([]) for name in program.method_names if name.startswith("edgeqkv_")}
    assert told == {name.replace(".", "_"): [fact] for name, fact in facts(export.model, export.artifact).items()}
    assert told["edgeqkv_variant"] == ["q-k=v+gqa4"]
    assert told["edgeqkv_state"] == ["state_0_kv (kv) fp32 [1x64x4x8], state_1_kv (kv) fp32 [1x64x4x8]"]


def test_every_matrix_product_is_delegated(exported: Exported) -> None:
    rows = {row["operator"]: row for row in exported("k_eq_v_gqa").artifact.details["delegation"]}
    # Per layer q, kv, out, up and down; and the head.
    assert (rows["aten.linear"]["delegated"], rows["aten.linear"]["kept"]) == (2 * 5 + 1, 0)
    assert (rows["aten.gelu"]["delegated"], rows["aten.gelu"]["kept"]) == (2, 0)
    assert rows["llama.update_cache"]["kept"] == rows["llama.custom_sdpa"]["kept"] == 2
    assert all(bool(row["why"]) == (row["kept"] > 0) for row in rows.values())
    separate = {row["operator"]: row for row in exported("gqa").artifact.details["delegation"]}
    assert separate["llama.update_cache"]["kept"] == 4


@pytest.mark.parametrize("keep", [0, 3, 20, 40, 1000, -1])
def test_a_truncated_file_is_an_error_and_no_crash(exported: Exported, tmp_path: Path, keep: int) -> None:
    export = exported("k_eq_v_gqa")
    (tmp_path / "model.pte").write_bytes((export.directory / "model.pte").read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"model\.pte"):
        open_artifact(tmp_path, export.artifact, "executorch")


def test_a_missing_file_or_method_is_an_error(exported: Exported, tmp_path: Path) -> None:
    export = exported("k_eq_v_gqa")
    with pytest.raises(BundleError, match="No such file"):
        open_artifact(tmp_path, export.artifact, "executorch")
    static = exported("k_eq_v_gqa", "static").artifact
    with pytest.raises(BundleError, match="no method 'decode'"):
        open_artifact(export.directory, static, "executorch")


def test_a_program_that_the_runtime_refuses_is_an_error(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export = exported("k_eq_v_gqa")
    # The first delegate's own data: well-formed as far as the file goes, but nothing that XNNPACK knows.
    damaged = (export.directory / "model.pte").read_bytes().replace(b"XH00", b"XXXX")
    (tmp_path / "model.pte").write_bytes(damaged)
    with pytest.raises(BundleError, match="ExecuTorch cannot load"):
        open_artifact(tmp_path, export.artifact, "executorch")
    assert capfd.readouterr().err == ""


def test_nothing_is_said_on_the_terminal(tmp_path: Path) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "tiny.pt", "q-k=v+gqa2", **{**TINY, "n_layer": 1})
    script = f"""
import logging, pathlib, edgeqkv
from edgeqkv.backends.target import TargetSpec
from edgeqkv.backends.executorch import TARGET
from edgeqkv.run.session import open_artifact
directory = pathlib.Path({str(tmp_path)!r})
model = edgeqkv.load({str(checkpoint)!r})
artifact = TARGET.export(model, directory, TargetSpec("stock", "fp32", "fp32", 48, 16), lambda stage, part: None)
open_artifact(directory, artifact, "executorch").feed([1, 2, 3])
assert not logging.getLogger().handlers, "the root logger belongs to the application"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_program_says_what_it_is_without_the_runtime(exported: Exported) -> None:
    export = exported("k_eq_v_gqa")
    path = export.directory / export.artifact.graphs[0].file
    facts = TARGET.inspect(path)
    (forward,) = facts.functions
    assert forward.name == "forward"
    assert list(forward.inputs.values()) == ["int64[1, 1..16]", "int64[1]"]
    assert len(forward.states) == len(export.artifact.state_tensors)
    assert forward.operators["XnnpackBackend"] >= 1
    assert forward.operators["llama::custom_sdpa"] == len(forward.states)
    assert facts.needs == ("XnnpackBackend",)
    assert facts.memory is not None
    assert facts.memory >= export.artifact.state_bytes
    assert facts.bytes == path.stat().st_size
    assert "get_vocab_size" in facts.properties["constant methods"]
