"""The export, start to end: choices made, weights checked, artifacts written, proven, and moved into place."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from edgeqkv import quantize
from edgeqkv.backends import backend
from edgeqkv.backends.target import TargetSpec
from edgeqkv.budget.evaluate import write_report
from edgeqkv.budget.plan import ModelShape
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.files import TOKENIZER, proof_name
from edgeqkv.bundle.manifest import (
    Artifact,
    LayerCard,
    ModelCard,
    Quality,
    QuantizationCard,
    Ranges,
    TargetCard,
    TokenizerCard,
    Verification,
)
from edgeqkv.bundle.staging import Staged, staged
from edgeqkv.errors import InputError, VerificationFailed
from edgeqkv.extras import installed_version
from edgeqkv.memory import give_back
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import with_block
from edgeqkv.pipeline.original import compare_with_original
from edgeqkv.pipeline.proof import Proof, examples, make_proof
from edgeqkv.pipeline.quality import QualityGate
from edgeqkv.pipeline.spec import ExportSpec, ResolvedExport
from edgeqkv.pipeline.verify import ORIGINAL, verify_artifact
from edgeqkv.pipeline.worker import ranges_in_worker
from edgeqkv.progress import Progress, silent, within
from edgeqkv.quantize import QuantConfig
from edgeqkv.quantize.kept import Kept
from edgeqkv.quantize.state import with_state
from edgeqkv.reading import read_text
from edgeqkv.run.chat import carry
from edgeqkv.run.perplexity import excess
from edgeqkv.run.turns import chat_card

__all__ = ["export", "model_card", "run_export"]

_CALIBRATION_LENGTH, _CALIBRATION_SEQUENCES = 512, 2048


def export(model: Model, spec: ExportSpec, on_progress: Progress = silent) -> Bundle:
    """Write a model for one or more targets as a bundle, and prove it.

    Args:
        model: what `edgeqkv.load` returned.
        spec: what is asked for.
        on_progress: told of the progress.

    Raises:
        VerificationFailed: an artifact does not compute what the model does, or its perplexity is too high; no bundle
            is written.
        EdgeQKVError: the input is wrong; the subclass says in which way.
    """
    return run_export(model, spec.resolve(model), on_progress)


def run_export(model: Model, resolved: ResolvedExport, on_progress: Progress = silent) -> Bundle:
    """As `export`, of what was resolved already."""
    return _Export(model, resolved, on_progress).run()


class _Export:
    """One export: what was resolved, and what its steps share."""

    def __init__(self, model: Model, resolved: ResolvedExport, on_progress: Progress) -> None:
        self.resolved = resolved
        self.model = _as_long(_normalized(model, resolved), resolved)
        self.on_progress = on_progress
        self.calibration = self._calibration()
        self.configs = {name: self._config(name) for name in resolved.targets}
        self.kept = Kept(resolved.out, resume=resolved.resume)

    def run(self) -> Bundle:
        try:
            with self.kept:
                return self._run()
        except VerificationFailed as failure:
            raise VerificationFailed(f"{failure}. {self.kept.told}".removesuffix(". ")) from failure

    def _run(self) -> Bundle:
        resolved = self.resolved
        with staged(resolved.out, overwrite=resolved.overwrite) as staging:
            self.on_progress("checking the weights", None)
            self.model.check_finite()
            stored = self._prepare()
            artifacts = {}
            for name, spec in resolved.targets.items():
                whole = self._with_examples(name, spec)
                artifacts[name] = backend(name).export(stored[name], staging.path, whole, self.on_progress)
                give_back()
            tokenizer = _tokenizer_card(self.model, resolved, staging)
            ranges = self._estimate(artifacts, staging)
            original = compare_with_original(self.model, self.on_progress) if resolved.verify else None
            proven = self._prove(stored, artifacts, staging) if resolved.verify else {}
            del stored
            measured = self._measure(artifacts, staging)
            cards = {
                name: TargetCard(
                    artifact=artifact,
                    quantization=self._quantization(name),
                    verification=proven[name][backend(name).proof_engine] if proven else None,
                    engines={
                        engine: result
                        for engine, result in proven.get(name, {}).items()
                        if engine != backend(name).proof_engine
                    },
                    quality=measured.get(name),
                    ranges=ranges.get(name),
                )
                for name, artifact in artifacts.items()
            }
            card = model_card(self.model, original)
            if resolved.devices:
                self.on_progress("working out the memory budget", None)
                entries = resolved.tokenizer.size if resolved.tokenizer else 0
                write_report(
                    staging.path,
                    card,
                    list(artifacts.values()),
                    entries,
                    resolved.devices,
                    resolved.own_devices,
                    shape=ModelShape.of_model(self.model),
                    head=resolved.head,
                )
            staging.write_manifest(installed_version("edgeqkv") or "", card, tokenizer, cards)
        return Bundle(resolved.out, check=False)

    def _prepare(self) -> dict[str, Model]:
        """What each target is to store: the model with its context, weights and state. Equal ones are one."""
        quantized: list[tuple[QuantConfig, Model]] = []
        stored = {}
        for name, spec in self.resolved.targets.items():
            config = self.configs[name]
            found = next((model for other, model in quantized if _alike(config, other)), None)
            if found is None:
                model = self.model if spec.context is None else self.model.with_context(spec.context)
                found = self._quantized(model, config)
                quantized.append((config, found))
                give_back()
            if spec.state is not None:
                found = with_state(found, spec.state, self.calibration, self.on_progress)
            stored[name] = found
        return stored

    def _quantized(self, model: Model, config: QuantConfig) -> Model:
        """The model with its weights as the config says: as a try before left them, or worked out."""
        if config.calibration is None or not config.quantizes:
            return quantize.apply(model, config, self.on_progress)
        if (taken := self.kept.take(model, config)) is not None:
            return taken
        quantized = quantize.apply(model, config, self.on_progress)
        self.kept.keep(model, config, quantized)
        return quantized

    def _estimate(self, artifacts: dict[str, Artifact], staging: Staged) -> dict[str, Ranges]:
        """What fp16 will make of the artifacts that compute in it. Before the proof, whose arithmetic has float32's
        range, so that what is beyond fp16's is said to be that."""
        found = {}
        for name, artifact in artifacts.items():
            target = backend(name)
            if target.range_engine is None:
                continue
            self.on_progress(f"estimating fp16 in {target.title}", None)
            found[name] = ranges_in_worker(staging.path, artifact, target.range_engine)
            beyond = found[name].overflowed
            if beyond and not self.resolved.allow_fp16_overflow:
                raise VerificationFailed(
                    f"{target.title} computes in fp16, whose largest number is 65504, and {beyond[0]}: a device would "
                    f"give wrong numbers or none. Choose a target with float32 arithmetic, or --allow-fp16-overflow to "
                    f"write it all the same. No bundle was written"
                )
        return found

    def _prove(
        self, stored: dict[str, Model], artifacts: dict[str, Artifact], staging: Staged
    ) -> dict[str, dict[str, Verification]]:
        """Compare every artifact with the model that it stores, by every engine that counts; and keep the proof."""
        results: dict[str, dict[str, Verification]] = {}
        proofs: list[tuple[Model, Artifact, Proof]] = []  # targets that store the same model share one
        for name, artifact in artifacts.items():
            target, model = backend(name), stored[name]
            proof = next((proof for of, other, proof in proofs if of is model and _same_input(artifact, other)), None)
            if proof is None:
                self.on_progress(ORIGINAL, None)
                proof = make_proof(model, artifact, within(self.on_progress, ORIGINAL))
                proofs.append((model, artifact, proof))
                give_back()
            results[name] = {}
            for engine in target.proven_engines(artifact.weights):
                result = verify_artifact(staging.path, artifact, proof, engine, self.on_progress)
                if not result.passed:
                    raise VerificationFailed(
                        f"{target.title} ({engine}) does not compute what {model.source.path.name} does: "
                        f"{result.failure}. No bundle was written"
                    )
                results[name][engine] = result
            proof.sampled().save(staging.path / proof_name(name))
        return results

    def _calibration(self) -> npt.NDArray[np.int64] | None:
        """Calibration tokens ``[sequences, length]``, spread over the text."""
        text, tokenizer = self.resolved.calibrate, self.resolved.tokenizer
        if text is None:
            return None
        assert tokenizer is not None, "the spec asks for one"
        ids = tokenizer.encode(read_text(text))
        context = max(int(spec.context or 0) for spec in self.resolved.targets.values())
        length = min(context, _CALIBRATION_LENGTH)
        count = min(len(ids) // length, _CALIBRATION_SEQUENCES)
        if not count:
            raise InputError(f"{text} has {len(ids)} tokens; calibrating needs {length} or more")
        starts = np.linspace(0, len(ids) - length, count).astype(np.int64)
        return np.stack([np.array(ids[start : start + length]) for start in starts])

    def _with_examples(self, name: str, spec: TargetSpec) -> TargetSpec:
        """The spec with what its target has to see of the model's activations on."""
        if not backend(name).needs_examples:
            return spec
        return dataclasses.replace(spec, examples=examples(self.model, spec, self.calibration))

    def _config(self, name: str) -> QuantConfig:
        spec = self.resolved.targets[name]
        steps = (self.resolved.tuning or {}).get(spec.weights, 0)
        head = self.resolved.head or backend(name).heads.get(spec.weights)
        return QuantConfig(spec.weights, head, self.calibration, steps, with_block(backend(name).schemes, spec.block))

    def _quantization(self, name: str) -> QuantizationCard | None:
        config, text = self.configs[name], self.resolved.calibrate
        if not config.quantizes:
            return None
        return QuantizationCard(
            weights=config.weights,
            head=config.head or config.weights,
            method=config.method,
            tuning=config.tuning,
            calibration=None if text is None else text.name,
        )

    def _measure(self, artifacts: dict[str, Artifact], staging: Staged) -> dict[str, Quality]:
        """The perplexity of every artifact, if there is a text to measure it on."""
        text, tokenizer = self.resolved.text, self.resolved.tokenizer
        if text is None:
            return {}
        assert tokenizer is not None, "the spec asks for one"
        gate = QualityGate(tokenizer.encode(read_text(text)), text.name, self.model, self.on_progress)
        measured = {}
        for name, artifact in artifacts.items():
            quality = gate.measure(staging.path, artifact)
            too_much = excess(quality, backend(name).title, self.resolved.max_degradation)
            if too_much:
                raise VerificationFailed(f"{too_much}. No bundle was written")
            measured[name] = quality
        return measured


def _normalized(model: Model, resolved: ResolvedExport) -> Model:
    """The model with what its images were normalized with, where that was given."""
    if resolved.normalization is None:
        return model
    mean, std = resolved.normalization
    image = dataclasses.replace(model.config.input, mean=mean, std=std)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, input=image))


def _as_long(model: Model, resolved: ResolvedExport) -> Model:
    """The model with more positions, where a context asks for them: by now the spec has been told that it may."""
    longest = max(int(spec.context or 0) for spec in resolved.targets.values())
    if not model.causal or longest <= model.config.positions:
        return model
    return model.with_context(longest, allow_longer=True)


def _alike(one: QuantConfig, other: QuantConfig) -> bool:
    """Whether two targets store the same numbers. (Calibration and tuning are an export's, not a target's.)"""
    names = {one.weights, one.head or one.weights}
    return (one.weights, one.head) == (other.weights, other.head) and all(
        one.schemes.get(name) == other.schemes.get(name) for name in names
    )


def _same_input(one: Artifact, other: Artifact) -> bool:
    """Whether one proof serves both."""
    if one.causal:
        return (one.context, one.chunk) == (other.context, other.chunk)
    return (one.batch, one.normalization) == (other.batch, other.normalization)


def _tokenizer_card(model: Model, resolved: ResolvedExport, staging: Staged) -> TokenizerCard | None:
    tokenizer, checkpoint = resolved.tokenizer, model.source.path
    if tokenizer is None:
        return None
    if not (staging.path / TOKENIZER).exists():  # else a target put the same one in words that its runtime reads
        tokenizer.save(staging.path / TOKENIZER)
    carry(tokenizer.path, staging.path)
    chat, note = chat_card(tokenizer)
    beside = tokenizer.path.absolute().parent == model.source.folder.absolute()
    return TokenizerCard(
        file=TOKENIZER,
        size=tokenizer.size,
        bos_id=tokenizer.bos_id,
        eos_token_ids=resolved.ends.ids,
        source=tokenizer.path.name + (f" beside {checkpoint.name}" if beside else ""),
        eos_source=resolved.ends.source,
        notes=(*resolved.notes, *([note] if note else [])),
        chat=chat,
    )


def model_card(model: Model, original: Verification | None = None) -> ModelCard:
    """The model, as the manifest has it; ``original`` is how it compares with its original implementation."""
    return ModelCard(
        kind=model.config.kind,
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
        original=original,
        layers=layer_cards(model) if model.config.kind == "decoder" else (),
    )


def layer_cards(model: Model) -> tuple[LayerCard, ...]:
    """What each of a decoder's layers keeps."""
    return tuple(
        LayerCard(
            heads=attention.heads.query,
            kv_heads=attention.heads.kv,
            head_dim=attention.heads.dim,
            merged=attention.merged,
            window=attention.window,
            source=attention.source,
        )
        for attention in (block.attention for block in model.network.blocks)
    )
