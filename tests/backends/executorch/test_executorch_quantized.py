"""Quantized weights: our codes in the file, our graph exactly, and what rounding activations to int8 does to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_golden

import edgeqkv
from edgeqkv import UnsupportedError, quantize
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.demo import checkpoint_path, heldout_path, tokenizer_path
from edgeqkv.model.model import Model
from edgeqkv.model.weights import QuantizedWeight
from edgeqkv.pipeline.proof import TOLERANCES, load_proof
from edgeqkv.pipeline.verify import verify
from edgeqkv.progress import silent
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.perplexity import original_perplexity, session_perplexity
from edgeqkv.run.session import Session, open_artifact
from edgeqkv.run.tokenizer import Tokenizer

CONTEXT, CHUNK = 64, 16

# float32 in another order of summation. Measured: 6e-6 with logits up to 4.4 on the small models.
EXACT = 1e-4


@dataclass(frozen=True)
class Export:
    """An export, and the model whose numbers it stores."""

    model: Model
    directory: Path
    artifact: Artifact

    def open(self) -> Session:
        return open_artifact(self.directory, self.artifact, "executorch")


Exported = Callable[..., Export]


@pytest.fixture(scope="session")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the whole pipeline's, with its proof."""
    out, options = tmp_path_factory.mktemp("proven") / "b", {"weights": "int8", "context": CONTEXT, "chunk": CHUNK}
    return edgeqkv.export(edgeqkv.load(path_of("qkv")), "executorch", out=out, **options)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, proven: Bundle) -> Exported:
    """Exports a checkpoint once for all tests: each takes seconds."""
    done: dict[tuple[str | None, ...], Export] = {}

    def export(name: str, weights: str, form: str = "stock", state: str = "fp32", head: str | None = None) -> Export:
        key = (name, weights, form, state, head)
        if key == ("qkv", "int8", "stock", "fp32", None) and key not in done:
            done[key] = Export(quantized(path_of(name), weights), proven.path, proven.target().artifact)
        if key not in done:
            directory = tmp_path_factory.mktemp("pte")
            model = quantized(path_of(name), weights, head)
            artifact = TARGET.export(model, directory, request_for(weights, form, state), silent)
            done[key] = Export(model, directory, artifact)
        return done[key]

    return export


def path_of(name: str) -> Path:
    return checkpoint_path() if name == "demo" else read_golden(name).path


def quantized(path: Path, weights: str, head: str | None = None) -> Model:
    config = quantize.QuantConfig(weights, head, schemes=TARGET.schemes)
    return quantize.apply(edgeqkv.load(path).with_context(CONTEXT), config)


def request_for(weights: str, form: str = "stock", state: str = "fp32") -> TargetSpec:
    return TargetSpec(form, weights, state, CONTEXT, CHUNK)


def every_position(session: Session, ids: np.ndarray, prompt: int) -> np.ndarray:
    """Logits after a prompt and after every further token."""
    session.reset()
    return np.stack([session.feed(ids[:prompt]), *(session.feed([token]) for token in ids[prompt:])])


def traced(model: Model, form: str) -> torch.export.ExportedProgram:
    """The program before it is lowered."""
    from edgeqkv.backends.executorch.export import DecoderModule  # registers the custom operators too

    module = DecoderModule(model, request_for("int4", form)).eval()
    example = (torch.zeros(1, CHUNK, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    shapes = ({1: torch.export.Dim("tokens", min=1, max=CHUNK)}, None)
    with torch.no_grad(), third_party_notices_silenced():
        return torch.export.export(module, example, dynamic_shapes=shapes, strict=False)


def leave_activations_alone(program: torch.export.ExportedProgram) -> int:
    """Take the rounding of activations out of a traced graph; how often that was."""
    ops, removed = torch.ops.torchao, 0
    for node in program.graph.nodes:
        if node.target is ops.dequantize_affine.default and node.args[0].target is ops.quantize_affine.default:
            node.replace_all_uses_with(node.args[0].args[0])
            removed += 1
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return removed


def logits_of(program: torch.export.ExportedProgram, ids: np.ndarray, prompt: int) -> np.ndarray:
    """What a traced program computes after a prompt and after each token that follows it."""
    module, rows = program.module(), []
    starts = [*range(0, prompt, CHUNK), *range(prompt, len(ids))]
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        with torch.no_grad():
            rows.append(module(torch.from_numpy(ids[start:stop])[None], torch.tensor([start]))[0].numpy())
    return np.stack(rows[-(-prompt // CHUNK) - 1 :])


@pytest.mark.parametrize(("weights", "form"), [("int4", "stock"), ("int8", "stock"), ("int4", "portable")])
def test_but_for_rounded_activations_the_graph_is_exact(weights: str, form: str) -> None:
    golden = read_golden("k_eq_v_gqa")
    model = quantized(golden.path, weights)
    program = traced(model, form)
    assert leave_activations_alone(program) == 2 * 5 + 1  # per layer q, kv, out, up and down; and the head
    expected = sequence_logits(model, golden.ids)
    # torch.export assumes two tokens or more, so that outside of the runtime it has no use for the last position.
    assert np.abs(logits_of(program, golden.ids[:-1], 40) - expected[39:-1]).max() < EXACT


CASES = [("k_eq_v_gqa", "int4"), ("qkv", "int8")]


@pytest.mark.parametrize(("name", "weights"), CASES)
def test_the_file_holds_our_codes_and_scales(exported: Exported, name: str, weights: str) -> None:
    export = exported(name, weights)
    found = segments(export.directory / "model.pte")
    for weight in matrices_of(export.model):
        codes = weight.codes.numpy()
        if weights == "int4":
            shifted = (codes + 8).astype(np.uint8)
            codes = shifted[:, 0::2] | shifted[:, 1::2] << 4
            scales = weight.scales.bfloat16()
            assert torch.equal(scales.float(), weight.scales)  # nothing is lost in XNNPACK's type
            assert torch.equal(weight.scales.half().float(), weight.scales)  # nor in the table's
            assert scales.view(torch.int16).numpy().tobytes() in found
        else:
            assert weight.scales.numpy().tobytes() in found
        assert codes.tobytes() in found


@pytest.mark.parametrize(("name", "weights"), CASES)
def test_a_tied_table_is_stored_once(exported: Exported, name: str, weights: str) -> None:
    export = exported(name, weights)
    table = export.model.network.token_table
    saved = table.codes.numel() * table.scheme.bits // 8
    assert saved <= export.artifact.details["shared_bytes"] < saved + 2 * table.scales.nbytes


@pytest.mark.parametrize(
    ("name", "weights", "form", "state", "head"),
    [
        *((name, weights, "stock", "fp32", None) for name, weights in CASES),
        ("k_eq_v_gqa", "int4", "static", "fp16", "int8"),
        pytest.param("k_eq_v_gqa", "int4", "portable", "fp32", None, marks=pytest.mark.full),
        pytest.param("k_eq_v_gqa", "int4", "stock", "fp32", "fp16", marks=pytest.mark.full),
    ],
)
def test_the_runtime_is_off_by_the_rounding_of_activations_alone(
    exported: Exported, name: str, weights: str, form: str, state: str, head: str | None
) -> None:
    golden, export = read_golden(name), exported(name, weights, form, state, head)
    assert export.artifact.state_bytes == export.model.state_bytes(CONTEXT, 2 if state == "fp16" else 4)
    expected = sequence_logits(export.model, golden.ids)
    session = export.open()
    got = every_position(session, golden.ids, 40)
    scale = np.abs(expected).max()
    assert session.precision == "int8-activations"
    assert np.abs(got - expected[39:]).max() < TOLERANCES["int8-activations"] * scale


def test_int8_has_a_scale_a_row_from_the_start() -> None:
    for matrix in matrices_of(quantized(path_of("k_eq_v_gqa"), "int8")):
        assert matrix.scheme.block == matrix.shape[1]
        # Half a step: the scale is rounded up, so that the largest number is not clamped.
        assert bool(((matrix.values() - matrix.tensor).abs() <= matrix.scales / 2 * (1 + 1e-6)).all())


def test_what_calibration_found_is_what_is_stored(tmp_path: Path) -> None:
    """Codes once were rounded again to fit XNNPACK, and the manifest still said gptq."""
    # The built-in tokenizer's vocabulary, and as little else as can be rounded in blocks: what counts are the codes.
    vocabulary = edgeqkv.load(checkpoint_path()).config.vocab_size
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": CONTEXT, "vocab_size": vocabulary}
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "small.pt", "q-k=v+gqa2", std=0.2, **sizes))
    text = tmp_path / "text.txt"
    text.write_text(heldout_path().read_text(encoding="utf-8")[:6000])
    bundle = edgeqkv.export(
        model,
        "executorch",
        out=tmp_path / "b",
        weights="int8",
        context=CONTEXT,
        chunk=CHUNK,
        tokenizer=tokenizer_path(),
        calibrate=text,
        tune=0,
        verify=False,
    )
    card = bundle.target()
    assert card.quantization is not None
    assert card.quantization.method == "gptq"
    data = (bundle.path / "model.pte").read_bytes()
    ids = np.array(Tokenizer(tokenizer_path()).encode(text.read_text()))
    starts = np.linspace(0, len(ids) - CONTEXT, len(ids) // CONTEXT).astype(int)
    calibration = np.stack([ids[start : start + CONTEXT] for start in starts])
    shortened = model.with_context(CONTEXT)
    calibrated = quantize.apply(shortened, quantize.QuantConfig("int8", None, calibration, schemes=TARGET.schemes))
    nearest = quantize.apply(shortened, quantize.QuantConfig("int8", schemes=TARGET.schemes))
    for ours, rounded in zip(matrices_of(calibrated), matrices_of(nearest), strict=True):
        assert ours.scheme.bits == 8
        assert ours.codes.numpy().tobytes() in data
        if ours is not calibrated.network.head:  # which is rounded, too
            assert not torch.equal(ours.codes, rounded.codes)
            assert rounded.codes.numpy().tobytes() not in data


def test_an_export_is_proven_against_what_the_runtime_stores(proven: Bundle) -> None:
    model = edgeqkv.load(path_of("qkv"))
    proof = load_proof(proven.path / "executorch.proof.npz")
    in_blocks = quantize.apply(model, quantize.QuantConfig("int8"))
    rows = (proof.lengths.cumsum() - 1).tolist()

    def distance(stored: Model) -> float:
        return float(np.abs(sequence_logits(stored, proof.tokens, rows)[:, proof.columns] - proof.logits).max())

    assert distance(quantize.apply(model, quantize.QuantConfig("int8", schemes=TARGET.schemes))) == 0
    assert distance(in_blocks) > 0
    assert verify(proven, against=model).passed


def test_blocks_that_xnnpack_does_not_take_are_refused(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 48, "n_head": 4, "n_positions": CONTEXT, "vocab_size": 97}
    checkpoint = write_random_checkpoint(tmp_path / "narrow.pt", "q-k=v+gqa2", **sizes)
    with pytest.raises(UnsupportedError, match="blocks of 32"):
        quantized(checkpoint, "int4")


@pytest.mark.full  # device_tests compare the demo model's logits in C++, as int4 too
def test_the_demo_model_keeps_its_perplexity_and_its_words(exported: Exported) -> None:
    export = exported("demo", "int4")
    ids = np.array(Tokenizer(tokenizer_path()).encode(heldout_path().read_text(encoding="utf-8")))[: 8 * CONTEXT]
    session = export.open()
    ours, count = session_perplexity(session, ids)
    reference, same = original_perplexity(export.model, ids, CONTEXT)
    assert count == same == 8 * CONTEXT // 2
    assert abs(ours / reference - 1) < 0.01  # measured: 1.0014
    expected = sequence_logits(export.model, ids[:CONTEXT])
    got = every_position(session, ids[:CONTEXT], 1)
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.9  # measured: 0.97
    assert np.abs(got - expected).max() < TOLERANCES["int8-activations"] * np.abs(expected).max()


def matrices_of(model: Model) -> list[QuantizedWeight]:
    return [weight for weight in model.weights if isinstance(weight, QuantizedWeight)]


def segments(path: Path) -> set[bytes]:
    """What a reader finds in each of the file's data segments."""
    program, data = ProgramFile(path), path.read_bytes()
    starts = ((program.header.segment_base + segment.offset, segment.size) for segment in program.segments())
    return {data[start : start + size] for start, size in starts}
