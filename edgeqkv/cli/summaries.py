"""What the command line shows of models, bundles and verifications: facts in words, for `edgeqkv.cli.console`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeqkv.backends import backend
from edgeqkv.cli import console
from edgeqkv.units import amount, duration

if TYPE_CHECKING:
    from edgeqkv.backends.inspection import FileFacts
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.bundle.manifest import Artifact, Compiled, Quality, Ranges, TargetCard, Verification

__all__ = [
    "answer",
    "bundle_rows",
    "how_to_run",
    "perplexity",
    "show_bundle",
    "show_file",
    "show_function",
    "show_model",
    "verdict",
]

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
        ("weights", ", ".join(f"{amount(n)} in {name}" for name, n in facts["weight_bytes"].items())),
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
    tensors = {1: "one merged tensor", 2: "two tensors"}.get(each, f"on average {each:.2f} tensors") + " a layer"
    tensors += "" if (keeping := state["layers_with_state"]) == config["layers"] else f" that keeps any ({keeping})"
    full = state["bytes_at_full_context"]
    return [
        (
            "shape",
            f"{config['layers']} layers, {config['hidden_size']} channels, {config['heads']} query heads, "
            f"{config['kv_heads']} KV heads of {config['head_dim']}, vocabulary {config['vocab_size']}",
        ),
        ("context", f"{config['positions']} tokens"),
        ("KV state", f"{tensors}, {state['reduction_against_qkv']:.1%} less than qkv"),
        *(("- kept", each) for each in state["layers"]),
        ("- per token", f"{state['bytes_per_token']['fp16']:,} bytes in fp16"),
        (
            f"- at {config['positions']}",
            f"{amount(full['fp32'])} in fp32, {amount(full['fp16'])} in fp16",
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
    console.print_facts(f"{bundle.path} written in {duration(seconds)}", bundle_rows(bundle))


def bundle_rows(bundle: Bundle) -> list[tuple[str, object]]:
    """What is in a bundle, for whom, and how it is known to be right."""
    manifest = bundle.manifest
    rows: list[tuple[str, object]] = [
        ("variant", manifest.model.variant),
        ("files", ", ".join(f"{name} ({amount(card.bytes)})" for name, card in manifest.files.items())),
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
    return rows


def how_to_run(bundle: Bundle) -> list[tuple[str, str]]:
    """What a bundle can be used for, and the command that does it."""
    path = shlex.quote(str(bundle.path))
    which = f" --target {bundle.targets[0]}" if len(bundle.targets) > 1 else ""
    if not bundle.causal:
        uses = [("run", f"edgeqkv run {path} --input FILE{which}")]
    elif bundle.tokenizer_path is not None:
        uses = [("generate", f"edgeqkv generate {path} --prompt TEXT{which}")]
    else:
        uses = [("generate", f"edgeqkv generate {path} --prompt TEXT --tokenizer tokenizer.json{which}")]
    proven = all(card.verification is not None for card in bundle.manifest.targets.values())
    return [
        *uses,
        ("prove again", f"edgeqkv verify {path}" + ("" if proven else " --against MODEL")),
        ("speed here", f"edgeqkv bench {path}"),
        ("will it fit?", f"edgeqkv budget {path} --device NAME"),
    ]


def show_file(facts: FileFacts) -> None:
    """A model's file, whoever wrote it."""
    rows: list[tuple[str, object]] = [("kind", facts.title)]
    rows += [("made by", facts.made_by)] if facts.made_by else []
    rows += [("needs", ", ".join(facts.needs))] if facts.needs else []
    rows.append(("size", amount(facts.bytes)))
    rows += [("constants", f"{amount(size)} in {name}") for name, size in facts.weights.items()]
    rows += [("planned memory", amount(facts.memory))] if facts.memory is not None else []
    for function in facts.functions:
        rows.append(("function", function.name or "the only one"))
        for kind, ends in (("- takes", function.inputs), ("- gives", function.outputs), ("- keeps", function.states)):
            rows += [(kind, _ends(ends))] if ends else []
        rows.append(
            ("- operators", ", ".join(f"{kind} {count}" for kind, count in function.operators.items()) or "none")
        )
    rows += [("note", note) for note in facts.notes]
    console.print_facts(str(facts.path), rows)
    if facts.properties:
        console.print_blank()
        console.print_facts("written into it", sorted(facts.properties.items()))


def _ends(ends: Mapping[str, str]) -> str:
    """Inputs or outputs; of many that are alike (the state of every layer) the first and how many there are."""
    kinds: dict[str, list[str]] = {}
    for name, spec in ends.items():
        kinds.setdefault(spec, []).append(name)
    shown = [
        f"{names[0]} {spec}" + (f" and {len(names) - 1} more of its kind" if len(names) > 1 else "")
        for spec, names in kinds.items()
    ]
    return ", ".join(shown)


def _artifact_rows(name: str, artifact: Artifact) -> list[tuple[str, object]]:
    return [*_form_rows(name, artifact), *_compiled_rows(artifact)]


def _compiled_rows(artifact: Artifact) -> list[tuple[str, object]]:
    """What a chip's compiler made of it, or how to have that."""
    if (found := artifact.compiled) is not None:
        if found.figures:
            return [*_experimental_rows(artifact), *_figure_rows(found)]
        spilled = max(found.spill_bytes.values(), default=0)
        return [
            (
                f"- for {found.soc}",
                f"{found.binary} ({amount(found.binary_bytes)}) by {found.compiler}, spills {amount(spilled)}",
            ),
            (
                "- simulated",
                f"{found.calls} calls on the same state as the graphs: at most {found.max_abs_error:.2g} apart "
                f"({found.tolerance:.2g} allowed), the state's rows by {found.max_code_error} of 256 codes",
            ),
        ]
    if (command := artifact.details.get("compile_with")) is not None:
        return [
            *_experimental_rows(artifact),
            ("- not compiled", f"the compiler is not installed here. With this folder as DIR: {command}"),
        ]
    return []


def _experimental_rows(artifact: Artifact) -> list[tuple[str, object]]:
    """Why it is not to be relied on, if that is so."""
    told = backend(artifact.target).experimental.get(artifact.form)
    return [("- experimental", told.removeprefix("experimental: "))] if told else []


def _figure_rows(found: Compiled) -> list[tuple[str, object]]:
    """What the compiler expects of a call of each graph."""
    return [
        (
            f"- for {found.soc} MACs",
            f"{found.binary} ({amount(found.binary_bytes)}) by {found.compiler}, {found.system}",
        ),
        *(
            (
                f"- {name}",
                f"SRAM {amount(each.sram_bytes)}, DRAM {amount(each.dram_bytes)}, flash {amount(each.flash_bytes)}, "
                f"{each.cycles:,} cycles (the compiler's estimate)",
            )
            for name, each in found.figures.items()
        ),
    ]


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
            f"{amount(artifact.state_bytes)} ({artifact.state}, {_counted(len(artifact.state_tensors), 'tensor')})",
        ),
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


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
