"""What the command line shows of models, bundles and verifications: facts in words, for `edgeqkv.cli.console`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeqkv.cli import console

if TYPE_CHECKING:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.bundle.manifest import Artifact, Quality, Ranges, TargetCard, Verification

__all__ = ["answer", "perplexity", "show_bundle", "show_function", "show_model", "verdict"]

_METHODS = {
    "nearest": "rounded to nearest (--calibrate TEXT is better)",
    "gptq": "calibrated",
    "gptq+tuned": "calibrated and tuned",
}
_VERDICTS = {
    "decoder": ("{0.positions} tokens in {0.steps} calls", "most likely token equal"),
    "encoder": ("{0.positions} inputs", "the same answer"),
}


def show_model(facts: dict[str, Any]) -> None:
    """A checkpoint, as `edgeqkv.cli.facts.describe` has it."""
    config, training = facts["config"], facts["training"]
    rows: list[tuple[str, object]] = [
        ("variant", f"{facts['variant']} ({', '.join(filter(None, (facts['class'], config.get('task'))))})"),
        ("parameters", f"{facts['parameters']:,}"),
        *(_decoder_rows(config, facts["state"]) if "state" in facts else _encoder_rows(config)),
        ("weights", ", ".join(f"{console.size(n)} in {name}" for name, n in facts["weight_bytes"].items())),
    ]
    rows += [
        (f"export to {name}", f"weights {', '.join(can['weights'])}; forms {', '.join(can['forms'])}")
        for name, can in facts["exports"].items()
    ]
    if "state" not in facts:
        rows += [(key.replace("_", " "), value) for key, value in training.items()]
    elif training:
        said = [f"{key} {value}" for key, value in training.items() if not isinstance(value, dict)]
        said += [f"{key} {value:.4g}" for key, value in training.get("val_metrics", {}).items()]
        rows.append(("training", ", ".join(said)))
    rows += [("note", note) for note in facts["notes"]]
    console.print_facts(facts["file"], rows)


def _decoder_rows(config: dict[str, Any], state: dict[str, Any]) -> list[tuple[str, object]]:
    each = state["tensors_per_layer"]
    tensors = {1: "one merged tensor", 2: "two tensors"}.get(each, f"on average {each:.2f} tensors")
    full = state["bytes_at_full_context"]
    return [
        (
            "shape",
            f"{config['layers']} layers, {config['hidden_size']} channels, {config['heads']} query heads, "
            f"{config['kv_heads']} KV heads of {config['head_dim']}, vocabulary {config['vocab_size']}",
        ),
        ("context", f"{config['positions']} tokens"),
        ("KV state", f"{tensors} a layer, {state['reduction_against_qkv']:.1%} less than qkv"),
        ("- per token", f"{state['bytes_per_token']['fp16']:,} bytes in fp16"),
        (
            f"- at {config['positions']}",
            f"{console.size(full['fp32'])} in fp32, {console.size(full['fp16'])} in fp16",
        ),
    ]


def _encoder_rows(config: dict[str, Any]) -> list[tuple[str, object]]:
    input_ = config["input"]
    match input_["kind"]:
        case "tokens":
            takes = f"{input_['length']} token ids of {input_['vocab_size']} (at most {input_['longest']})"
        case "features":
            takes = f"a set of {input_['length']} vectors of {input_['size']} features"
        case _:
            pixels, patch = input_["size"], input_["patch"]
            takes = f"an image of {input_['channels']} × {pixels} × {pixels} pixels, in patches of {patch} × {patch}"
    return [
        ("input", takes),
        (
            "shape",
            f"{config['layers']} layers, {config['hidden_size']} channels, {config['heads']} heads of "
            f"{config['head_dim']}, {config['classes']} classes",
        ),
    ]


def show_bundle(bundle: Bundle, seconds: float) -> None:
    """A bundle that was just written."""
    manifest = bundle.manifest
    rows: list[tuple[str, object]] = [
        ("variant", manifest.model.variant),
        ("files", ", ".join(f"{name} ({console.size(card.bytes)})" for name, card in manifest.files.items())),
    ]
    for name, card in manifest.targets.items():
        verified = verdict(card.verification, manifest.model.kind) if card.verification else "not (--no-verify)"
        rows += [*_artifact_rows(name, card.artifact), ("- verified", verified)]
        rows += [(f"- in {engine}", verdict(each, manifest.model.kind)) for engine, each in card.engines.items()]
        rows += _quality_rows(card)
        rows += [("- in fp16", _in_fp16(card.ranges))] if card.ranges else []
    if original := manifest.model.original:
        rows.append(("as the original", f"{verdict(original, manifest.model.kind)}, by {original.engine}"))
    if (read := manifest.tokenizer) is not None:
        ends = f"{', '.join(map(str, read.eos_token_ids))}, as {read.eos_source} says" if read.eos_token_ids else "none"
        rows.append(("tokenizer", f"{read.source}, {read.size:,} tokens; a text is ended by {ends}"))
    rows += [("note", note) for note in manifest.model.notes]
    console.print_facts(f"{bundle.path} written in {seconds:.1f} s", rows)


def _artifact_rows(name: str, artifact: Artifact) -> list[tuple[str, object]]:
    return [*_form_rows(name, artifact), *_compiled_rows(artifact)]


def _compiled_rows(artifact: Artifact) -> list[tuple[str, object]]:
    """What a chip's compiler made of it, or how to have that."""
    if (found := artifact.compiled) is not None:
        spilled = max(found.spill_bytes.values(), default=0)
        return [
            (
                f"- for {found.soc}",
                f"{found.binary} ({console.size(found.binary_bytes)}) by {found.compiler}, spills "
                f"{console.size(spilled)}",
            ),
            (
                "- simulated",
                f"{found.calls} calls on the same state as the graphs: at most {found.max_abs_error:.2g} apart "
                f"({found.tolerance:.2g} allowed), the state's rows by {found.max_code_error} of 256 codes",
            ),
        ]
    if (command := artifact.details.get("compile_with")) is not None:
        return [("- not compiled", f"the compiler is not installed here. With this folder as DIR: {command}")]
    return []


def _form_rows(name: str, artifact: Artifact) -> list[tuple[str, object]]:
    what = f"{artifact.form}, {artifact.weights} weights"
    if not artifact.causal:
        ends = (artifact.whole_input, artifact.graphs[0].logits)
        shapes = " → ".join("×".join(map(str, spec.shape)) for spec in ends)
        return [(name, f"{what}, {shapes}")]
    return [
        (name, f"{what}, context {artifact.context}, chunk {artifact.chunk}"),
        (
            "- KV state",
            f"{console.size(artifact.state_bytes)} ({artifact.state}, {len(artifact.state_tensors)} tensors)",
        ),
    ]


def _quality_rows(card: TargetCard) -> list[tuple[str, object]]:
    """What quantization cost; of an encoder, its answers on the proof's inputs say it."""
    if not card.artifact.causal:
        return []
    if card.quality:
        return [("- perplexity", perplexity(card.quality))]
    if card.quantization is None:
        return []
    how = _METHODS[card.quantization.method]
    return [("- quality", f"weights {how}; what that costs was not measured (--text TEXT does)")]


def _in_fp16(ranges: Ranges) -> str:
    """What fp16's range means for an artifact, in one line."""
    if ranges.note:
        return f"not estimated: {ranges.note}"
    if ranges.overflowed:
        return f"OVERFLOWS, as --allow-fp16-overflow allows: {'; '.join(ranges.overflowed)}"
    return f"largest activation {ranges.largest:.3g}, {ranges.share:.1%} of fp16's largest number, at {ranges.at}"


def verdict(result: Verification, kind: str) -> str:
    """A verification of a kind of model in one line."""
    if not result.passed:
        return f"no: {result.failure}"
    what, same = _VERDICTS[kind]
    return (
        f"yes: {what.format(result)}, largest difference of a logit {result.max_abs_error:.1e} "
        f"({result.tolerance:.1e} allowed), {same} in {result.argmax_equal} of {result.steps}"
    )


def perplexity(quality: Quality) -> str:
    """A perplexity in one line."""
    if quality.original is None:
        return f"{quality.perplexity:.2f} on {quality.tokens} tokens of {quality.text}"
    return (
        f"{quality.perplexity:.2f} on {quality.tokens} tokens of {quality.text}; the original's {quality.original:.2f} "
        f"({quality.degradation:+.2%})"
    )


def show_function(title: str, facts: dict[str, Any]) -> None:
    """A function of a file that was run on its own (`edgeqkv.backends.target.Target.examine`)."""
    rows: list[tuple[str, object]] = [
        (kind, ", ".join(f"{name} {spec}" for name, spec in facts[kind].items()) or "none")
        for kind in ("inputs", "outputs", "states")
    ]
    runs = f"on zeros, in fp32 and in fp16, {facts['fp16_difference']:.1e} apart" if facts["finite"] else "no"
    console.print_facts(title, [*rows, ("runs", runs)])


def answer(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    """An encoder's answer to one input, as `edgeqkv.run.answers.evaluate` has it."""
    if "tokens" in facts:
        return [("tokens", " ".join(map(str, facts["tokens"])))]
    if "odd_one_out" in facts:
        return [("odd one out", f"member {facts['odd_one_out']} ({facts['probability']:.1%})")]
    return [(f"class {each['class']}", f"{each['probability']:.1%}") for each in facts["classes"]]
