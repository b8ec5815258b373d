"""What the command line shows of models, bundles and verifications: facts in words, for `edgeqkv.cli.console`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeqkv.cli import console

if TYPE_CHECKING:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.pipeline.proof import Verification
    from edgeqkv.run.perplexity import Quality

__all__ = ["perplexity", "show_bundle", "show_function", "show_model", "verdict"]


_METHODS = {
    "nearest": "rounded to nearest (--calibrate TEXT is better)",
    "gptq": "calibrated",
    "gptq+tuned": "calibrated and tuned",
}


def show_model(facts: dict[str, Any]) -> None:
    """A checkpoint, as `edgeqkv.cli.inspect.describe` has it."""
    config, state, training = facts["config"], facts["state"], facts["training"]
    tensors = "one merged tensor" if state["tensors_per_layer"] == 1 else "two tensors"
    full = state["bytes_at_full_context"]
    rows: list[tuple[str, object]] = [
        ("variant", f"{facts['variant']} ({facts['class']})"),
        ("parameters", f"{facts['parameters']:,}"),
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
        ("weights", ", ".join(f"{console.size(n)} in {name}" for name, n in facts["weight_bytes"].items())),
    ]
    rows += [
        (f"export to {name}", f"weights {', '.join(can['weights'])}; forms {', '.join(can['forms'])}")
        for name, can in facts["exports"].items()
    ]
    if training:
        told = [f"{key} {value}" for key, value in training.items() if not isinstance(value, dict)]
        told += [f"{key} {value:.4g}" for key, value in training.get("val_metrics", {}).items()]
        rows.append(("training", ", ".join(told)))
    rows += [("note", note) for note in facts["notes"]]
    console.print_facts(facts["file"], rows)


def show_bundle(bundle: Bundle, seconds: float) -> None:
    """A bundle that was just written."""
    files = bundle.manifest.files
    rows: list[tuple[str, object]] = [
        ("variant", bundle.manifest.model.variant),
        ("files", ", ".join(f"{name} ({console.size(card.bytes)})" for name, card in files.items())),
    ]
    for name in bundle.targets:
        card = bundle.target(name)
        artifact = card.artifact
        rows += [
            (
                name,
                f"{artifact.form}, {artifact.weights} weights, context {artifact.context}, chunk {artifact.chunk}",
            ),
            (
                "- KV state",
                f"{console.size(artifact.state_bytes)} ({artifact.state}, {len(artifact.state_tensors)} tensors)",
            ),
            ("- verified", verdict(card.verification) if card.verification else "not (--no-verify)"),
        ]
        if card.quality:
            rows.append(("- perplexity", perplexity(card.quality)))
        elif card.quantization:
            how = _METHODS[card.quantization.method]
            rows.append(("- quality", f"weights {how}; what that costs was not measured (--text TEXT does)"))
    rows += [("note", note) for note in bundle.manifest.model.notes]
    console.print_facts(f"{bundle.path} written in {seconds:.1f} s", rows)


def verdict(result: Verification) -> str:
    """A verification in one line."""
    if not result.passed:
        return f"no: {result.failure}"
    return (
        f"yes: {result.positions} tokens in {result.steps} calls, largest difference of a logit "
        f"{result.max_abs_error:.1e} ({result.tolerance:.1e} allowed), most likely token equal in "
        f"{result.argmax_equal} of {result.steps}"
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
    """A function of a Core ML package that was run on its own."""
    rows: list[tuple[str, object]] = [
        (kind, ", ".join(f"{name} {spec}" for name, spec in facts[kind].items()) or "none")
        for kind in ("inputs", "outputs", "states")
    ]
    runs = f"on zeros, in fp32 and in fp16, {facts['fp16_difference']:.1e} apart" if facts["finite"] else "no"
    console.print_facts(title, [*rows, ("runs", runs)])
