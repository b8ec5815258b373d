"""The export, start to end: choices made, weights checked, artifacts written, proven, and moved into place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeqkv import quantize
from edgeqkv.backends import TARGETS, Backend, Request, backend
from edgeqkv.budget.judging import device_names, write_report
from edgeqkv.bundle.bundle import (
    TOKENIZER,
    Bundle,
    ModelCard,
    QuantizationCard,
    Staged,
    TargetCard,
    TokenizerCard,
    proof_name,
    staged,
)
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import InputError, UnsupportedError, VariantError, VerificationFailed
from edgeqkv.extras import installed_version
from edgeqkv.memory import give_back
from edgeqkv.model.model import Model, TrainedModel
from edgeqkv.model.variants import Variant
from edgeqkv.pipeline.proof import Proof, Verification
from edgeqkv.pipeline.verify import make_proof, verify_artifact
from edgeqkv.progress import Report, silent
from edgeqkv.quantize.state import with_state
from edgeqkv.run.perplexity import Quality, excess, measure
from edgeqkv.run.tokenizer import Tokenizer, read_text

__all__ = ["check_variant", "choice", "export", "model_card"]

_DEFAULT_CHUNK = 128
_CALIBRATION_LENGTH, _CALIBRATION_SEQUENCES = 512, 2048


def export(
    model: Model,
    target: str | Sequence[str] = "onnx",
    *,
    out: str | Path,
    variant: str | None = None,
    weights: str | None = None,
    state: str | None = None,
    context: int | None = None,
    chunk: int | None = None,
    form: str | None = None,
    tokenizer: str | Path | None = None,
    head: str | None = None,
    calibrate: str | Path | None = None,
    tune: int | None = None,
    text: str | Path | None = None,
    max_degradation: float = 0.03,
    devices: Sequence[str] = (),
    own_devices: Path | None = None,
    verify: bool = True,
    overwrite: bool = False,
    report: Report = silent,
) -> Bundle:
    """Write a model for one or more targets as a bundle, and prove it.

    Args:
        model: what `edgeqkv.load` returned.
        target: ``onnx``, ``executorch``, ``coreml``, or several of them.
        out: the folder to write; it appears only if all went well.
        variant: a claim to be checked, in any accepted spelling.
        weights: precision of the stored weights; the target's default if not given.
        state: precision of the stored state; the target's default if not given.
        context: tokens that the state has room for; the model's positions if not given.
        chunk: the most tokens of a prefill call; 128, or the context if that is less.
        form: which form of the graph; the target's default if not given.
        tokenizer: a ``tokenizer.json`` to put into the bundle.
        head: precision of the token table and the head, if it is to differ from ``weights``.
        calibrate: a text file on which to calibrate the quantization; without one it rounds to nearest.
        tune: steps of tuning after the calibration; `quantize.tuning_steps` if not given.
        text: a text file on which to measure the perplexity of every artifact and of the model.
        max_degradation: how much higher an artifact's perplexity may be, as a part of the model's.
        devices: names of devices to put a memory budget into the bundle for (`edgeqkv.budget`).
        own_devices: a file of devices of the user's own.
        verify: compare every artifact with the model before it is called done.
        overwrite: replace a bundle at ``out``.
        report: told of the progress.

    Raises:
        VerificationFailed: an artifact does not compute what the model does, or its perplexity is too high; no bundle
            is written.
        EdgeQKVError: the input is wrong; the subclass says in which way.
    """
    names = list(dict.fromkeys([target] if isinstance(target, str) else target))
    if not names:
        raise UnsupportedError("no target was given")
    check_variant(model, variant)
    devices = device_names(devices, own_devices)
    for name in names:
        choice(backend(name), "weights", head)
    words = Tokenizer(Path(tokenizer)) if tokenizer is not None else None
    if words is not None:
        words.check_fits(model.config.vocab_size)
    context = model.config.positions if context is None else context
    calibration = _calibration(calibrate, words, context)
    shortened = model.with_context(context)
    requests = {
        name: _request(backend(name), context, chunk, form=form, weights=weights, state=state, words=words)
        for name in names
    }
    recipes = {
        weights: _recipe(model, weights, head, calibration, tune)
        for weights in dict.fromkeys(request.weights for request in requests.values())
    }
    with staged(Path(out), overwrite=overwrite) as staging:
        report("checking the weights", None)
        model.check_finite()
        quantized = {weights: quantize.apply(shortened, recipe, report) for weights, recipe in recipes.items()}
        give_back()
        stored = {
            name: with_state(backend(name).stores(quantized[request.weights]), request.state, calibration, report)
            for name, request in requests.items()
        }
        artifacts = {}
        for name, request in requests.items():
            artifacts[name] = backend(name).export(stored[name], staging.path, request, report)
            give_back()
        card, words_card = model_card(model, "decoder"), _tokenizer_card(words, staging)
        results = _prove(stored, artifacts, staging, report) if verify else dict.fromkeys(artifacts)
        measured = _measure(model, artifacts, staging, text, words, max_degradation, report)
        targets = {
            name: TargetCard(
                artifact=artifact,
                quantization=_quantization(recipes[artifact.weights], calibrate),
                verification=results[name],
                quality=measured.get(name),
            )
            for name, artifact in artifacts.items()
        }
        if devices:
            report("working out the memory budget", None)
            entries = words.size if words else 0
            write_report(staging.path, card, list(artifacts.values()), entries, devices, own_devices)
        staging.write_manifest(installed_version("edgeqkv") or "", card, words_card, targets)
    return Bundle(out, check=False)


def check_variant(model: TrainedModel, claim: str | None) -> None:
    """Raise `VariantError` if the model is another variant than was claimed."""
    if claim is None:
        return
    claimed = Variant.parse(claim).for_heads(model.config.heads)
    if claimed != model.variant:
        kv_heads = model.variant.kv_heads_of(model.config.heads)
        raise VariantError(
            f"{model.source.path.name} is {model.variant}, not {claimed} (its weights say so: class "
            f"{model.source.model_class}, {kv_heads} KV heads). Export it with --variant {model.variant}, "
            f"or without --variant"
        )


def _request(
    target: Backend,
    context: int,
    chunk: int | None,
    *,
    form: str | None,
    weights: str | None,
    state: str | None,
    words: Tokenizer | None,
) -> Request:
    if chunk is not None and not 1 <= chunk <= context:
        raise InputError(f"a chunk of {chunk} is impossible with a context of {context}; choose 1 to {context}")
    return Request(
        form=choice(target, "form", form),
        weights=choice(target, "weights", weights),
        state=choice(target, "state", state),
        context=context,
        chunk=min(_DEFAULT_CHUNK, context) if chunk is None else chunk,
        bos_id=words.bos_id if words else None,
        eos_ids=words.eos_ids if words else (),
        tokenizer=words.path if words else None,
    )


_OFFERS = {"form": "forms", "encoder form": "encoder_forms", "weights": "weights", "state": "states"}


def choice(target: Backend, what: str, asked: str | None) -> str:
    """What was asked for, or the target's default.

    Raises:
        UnsupportedError: the target does not offer it.
    """
    offered: tuple[str, ...] = tuple(getattr(target, _OFFERS[what]))
    if asked is None:
        return offered[0]
    if asked not in offered:
        what, offer = what.removeprefix("encoder "), _OFFERS[what]
        told = f"{target.title} cannot do {what} '{asked}'; it can do {', '.join(offered)}"
        able = [name for name in TARGETS if asked in getattr(backend(name), offer)]
        raise UnsupportedError(f"{told}. For {what} '{asked}': --target {' or '.join(able)}" if able else told)
    return asked


def _prove(
    stored: dict[str, Model], artifacts: dict[str, Artifact], staging: Staged, report: Report
) -> dict[str, Verification | None]:
    """Compare every artifact with the model that it stores, and keep the proof beside it."""
    results: dict[str, Verification | None] = {}
    proofs: dict[Model, Proof] = {}  # targets that store the same model share one
    for name, artifact in artifacts.items():
        title, model = backend(name).title, stored[name]
        if model not in proofs:
            report("computing the original's logits", None)
            proofs[model] = make_proof(model, artifact.context, artifact.chunk)
            give_back()
        report(f"verifying {title}", None)
        result = verify_artifact(staging.path, artifact, proofs[model])
        if not result.passed:
            raise VerificationFailed(
                f"{title} does not compute what {model.source.path.name} does: {result.failure}. No bundle was written"
            )
        results[name] = result
        proofs[model].sampled().save(staging.path / proof_name(name))
    return results


def _calibration(text: str | Path | None, words: Tokenizer | None, context: int) -> npt.NDArray[np.int64] | None:
    """Calibration tokens ``[sequences, length]``, spread over the text."""
    if text is None:
        return None
    if words is None:
        raise InputError(f"calibrating on {text} needs the model's tokenizer; give it with --tokenizer")
    ids = words.encode(read_text(Path(text)))
    length = min(context, _CALIBRATION_LENGTH)
    count = min(len(ids) // length, _CALIBRATION_SEQUENCES)
    if not count:
        raise InputError(f"{text} has {len(ids)} tokens; calibrating needs {length} or more")
    starts = np.linspace(0, len(ids) - length, count).astype(np.int64)
    return np.stack([np.array(ids[start : start + length]) for start in starts])


def _recipe(
    model: Model, weights: str, head: str | None, calibration: npt.NDArray[np.int64] | None, tune: int | None
) -> quantize.Recipe:
    if tune is not None and tune < 0:
        raise InputError(f"{tune} steps of tuning are impossible; choose 0 for none, or more")
    if calibration is None:
        if tune:
            raise InputError("tuning needs a text; give one with --calibrate")
        return quantize.Recipe(weights, head)
    steps = quantize.tuning_steps(model, weights) if tune is None else tune
    return quantize.Recipe(weights, head, calibration, steps)


def _quantization(recipe: quantize.Recipe, calibrate: str | Path | None) -> QuantizationCard | None:
    if not recipe.quantizes:
        return None
    return QuantizationCard(
        weights=recipe.weights,
        head=recipe.head or recipe.weights,
        method=recipe.method,
        tuning=recipe.tuning,
        calibration=None if calibrate is None else Path(calibrate).name,
    )


def _measure(
    model: Model,
    artifacts: dict[str, Artifact],
    staging: Staged,
    text: str | Path | None,
    words: Tokenizer | None,
    max_degradation: float,
    report: Report,
) -> dict[str, Quality]:
    """The perplexity of every artifact, if there is a text to measure it on."""
    if text is None:
        return {}
    if words is None:
        raise InputError(f"measuring the perplexity on {text} needs the model's tokenizer; give it with --tokenizer")
    tokens = words.encode(read_text(Path(text)))
    measured = {}
    for name, artifact in artifacts.items():
        runtime = backend(name)
        session = runtime.open(staging.path, artifact, runtime.engines[0])
        quality = measure(session, tokens, Path(text).name, model, report)
        too_much = excess(quality, runtime.title, max_degradation)
        if too_much:
            raise VerificationFailed(f"{too_much}. No bundle was written")
        measured[name] = quality
    return measured


def _tokenizer_card(words: Tokenizer | None, staging: Staged) -> TokenizerCard | None:
    if words is None:
        return None
    shutil.copyfile(words.path, staging.path / TOKENIZER)
    return TokenizerCard(file=TOKENIZER, size=words.size, bos_id=words.bos_id, eos_ids=words.eos_ids)


def model_card(model: TrainedModel, kind: str) -> ModelCard:
    """The model, as the manifest has it."""
    return ModelCard(
        kind=kind,
        variant=str(model.variant),
        parameters=model.parameters,
        config=dataclasses.asdict(model.config),
        source={
            "file": model.source.path.name,
            "format": model.source.format,
            "class": model.source.model_class,
            "training": model.source.training,
        },
        notes=model.notes,
    )
