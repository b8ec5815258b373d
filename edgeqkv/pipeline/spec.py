"""What a user can ask of an export, and what becomes of it: every choice made, and checked before any work is done.

A choice is made by the first of these that says something: the option, the preset that was named (`--recipe`), the
first preset of the named device that fits, the target's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeqkv.backends import TARGETS, around_chip, backend, choice, offering, soc_of
from edgeqkv.backends.target import Target, TargetSpec
from edgeqkv.budget.evaluate import choose, device_names
from edgeqkv.budget.presets import Choices
from edgeqkv.errors import InputError, UnsupportedError, VariantError
from edgeqkv.model.kinds import Kind, refuse_foreign
from edgeqkv.model.model import Image, Model
from edgeqkv.model.schemes import Scheme
from edgeqkv.model.variants import Variant
from edgeqkv.quantize import tuning_steps
from edgeqkv.reading import check_file, is_file
from edgeqkv.run.ends import NONE, Ends, eos_ids
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.settings import check

__all__ = [
    "OPTIONS",
    "ExportSpec",
    "Option",
    "ResolvedExport",
    "check_degradation",
    "check_variant",
    "kind_of",
    "tokenizer_beside",
]

_DEFAULT_CHUNK: Final = 128
_DEFAULT_MAX_DEGRADATION: Final = 0.03
_DEFAULT_FOLDER: Final = Path("build")
_ENCODER_WEIGHTS: Final = "int8"  # where a target has it: 4 bits cost an encoder more than they save


@dataclass(frozen=True)
class Option:
    """How the command line spells an option, and the kinds of models that it is for."""

    flag: str
    kinds: tuple[Kind, ...] = ("decoder", "encoder")


OPTIONS: Final[Mapping[str, Option]] = {
    "targets": Option("--target"),
    "variant": Option("--variant"),
    "form": Option("--form"),
    "weights": Option("--weights"),
    "state": Option("--state", ("decoder",)),
    "context": Option("--context", ("decoder",)),
    "allow_longer": Option("--allow-longer", ("decoder",)),
    "chunk": Option("--chunk", ("decoder",)),
    "batch": Option("--batch", ("encoder",)),
    "head": Option("--keep-head"),
    "block": Option("--block"),
    "tokenizer": Option("--tokenizer", ("decoder",)),
    "eos": Option("--eos", ("decoder",)),
    "calibrate": Option("--calibrate", ("decoder",)),
    "tune": Option("--tune", ("decoder",)),
    "resume": Option("--resume", ("decoder",)),
    "text": Option("--text", ("decoder",)),
    "max_degradation": Option("--max-degradation", ("decoder",)),
    "image_input": Option("--image-input", ("encoder",)),
    "mean": Option("--mean", ("encoder",)),
    "std": Option("--std", ("encoder",)),
    "preset": Option("--recipe", ("decoder",)),
    "devices": Option("--device", ("decoder",)),
    "own_devices": Option("--devices", ("decoder",)),
    "allow_fp16_overflow": Option("--allow-fp16-overflow"),
    "verify": Option("--verify"),
    "soc": Option("--soc"),
    "memory_mode": Option("--memory-mode"),
    "system_config": Option("--system-config"),
    "out": Option("--out"),
    "overwrite": Option("--force"),
}
"""Every field of `ExportSpec`."""


@dataclass(frozen=True)
class ResolvedExport:
    """An export with every choice made and checked.

    Attributes:
        targets: target → what its export is to be, in the order in which they were asked for.
        out: the folder to write.
        head: precision of the token table and the head, if it is to differ.
        calibrate: a text on which to calibrate the quantization.
        tuning: precision of the weights → steps of tuning after the calibration.
        resume: whether to take the calibrated weights that a try before kept (`edgeqkv.quantize.kept`).
        tokenizer: what goes into the bundle, if anything does.
        ends: the tokens that end a text, and what says so.
        notes: what people should know of the tokenizer.
        text, max_degradation: on which text to measure the perplexity, and by what part of it it may rise.
        normalization: of each channel, what was subtracted from pixels of 0 to 1 and what the difference was divided
            by; None: as the checkpoint has it.
        devices, own_devices: whose memory budgets go into the bundle (the catalogue's names); a file of further ones.
        allow_fp16_overflow: whether an artifact may be written whose numbers are beyond fp16, which it computes in.
        verify: whether to prove the result.
        overwrite: whether to replace a bundle.
        reasons: which presets chose, and why: for people.
    """

    targets: Mapping[str, TargetSpec]
    out: Path
    head: str | None = None
    calibrate: Path | None = None
    tuning: Mapping[str, int] | None = None
    resume: bool = False
    tokenizer: Tokenizer | None = None
    ends: Ends = NONE
    notes: tuple[str, ...] = ()
    text: Path | None = None
    max_degradation: float = _DEFAULT_MAX_DEGRADATION
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    devices: tuple[str, ...] = ()
    own_devices: Path | None = None
    allow_fp16_overflow: bool = False
    verify: bool = True
    overwrite: bool = False
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportSpec:
    """Everything that a user can ask of an export; None where nothing was said.

    Attributes:
        targets: names of targets; the preset's if not given, or the first of all.
        variant: a claim to be checked, in any accepted spelling.
        form: which form of the graph.
        weights: precision of the stored weights.
        state: precision of the stored state.
        context: tokens that the state has room for; `DecoderConfig.default_context` if not given.
        allow_longer: let the context be longer than what the model was trained for.
        chunk: the most tokens of a prefill call; 128, or the context if that is less.
        batch: inputs that a call of an encoder takes; 1 if not given.
        head: precision of the token table and the head, if it is to differ from ``weights``.
        block: columns of a row that share a scale, of int4; the default depends on how it is quantized.
        tokenizer: a ``tokenizer.json`` to put into the bundle.
        eos: the tokens that end a text, by their ids or as the tokenizer has them; if not given, those that the
            tokenizer and the files beside it say.
        calibrate: a text file on which to calibrate the quantization; without one it rounds to nearest.
        tune: steps of tuning after the calibration; `quantize.tuning_steps` if not given.
        resume: take the calibrated weights that a try before kept.
        text: a text file on which to measure the perplexity of every artifact and of the model.
        max_degradation: how much higher an artifact's perplexity may be, as a part of the model's; 0.03 if not given.
        image_input: take an image of the target's own type, and normalize it in the graph.
        mean, std: of each channel of an image whose pixels are 0 to 1, what was subtracted in training and what the
            difference was divided by; the task's own if the file says which task it was.
        preset: a recipe's name or file.
        soc: the chip to compile for, where the target compiles for chips; the target's first if not given.
        memory_mode, system_config: what the memories around it are, where the target's compiler asks; likewise.
        devices: names of devices: to choose by (the first) and to put memory budgets into the bundle for (all).
        own_devices: a file of devices of the user's own.
        allow_fp16_overflow: write a target that computes in fp16 even if the model's activations are beyond its range.
        verify: compare every artifact with the model before it is called done.
        out: the folder to write; ``build/NAME`` of the checkpoint if not given.
        overwrite: replace a bundle there.
    """

    targets: tuple[str, ...] | None = None
    variant: str | None = None
    form: str | None = None
    weights: str | None = None
    state: str | None = None
    context: int | None = None
    allow_longer: bool | None = None
    chunk: int | None = None
    batch: int | None = None
    head: str | None = None
    block: int | None = None
    tokenizer: Path | None = None
    eos: tuple[int | str, ...] | None = None
    calibrate: Path | None = None
    tune: int | None = None
    resume: bool | None = None
    text: Path | None = None
    max_degradation: float | None = None
    image_input: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preset: str | Path | None = None
    soc: str | None = None
    memory_mode: str | None = None
    system_config: str | None = None
    devices: tuple[str, ...] | None = None
    own_devices: Path | None = None
    allow_fp16_overflow: bool = False
    verify: bool = True
    out: Path | None = None
    overwrite: bool = False

    def resolve(self, model: Model) -> ResolvedExport:
        """Make every choice for a model, and check that it can be.

        Raises:
            InputError: an option is for another kind of model, beyond its range, or of no use without another one.
            UnsupportedError: a target cannot do what was asked for; the message says what it can.
            VariantError: the model is another variant than was claimed.
        """
        self._check_belongs(model)
        if self.targets == ():
            raise UnsupportedError("no target was given")
        check_variant(model, self.variant)
        resolved = self._resolve_encoder(model) if not model.causal else self._resolve_decoder(model)
        for name in resolved.targets:
            choice(backend(name), "weights", self.head)
        return resolved

    def _check_belongs(self, model: Model) -> None:
        kind = kind_of(model)
        given = [name for name in OPTIONS if getattr(self, name) is not None]
        foreign = [OPTIONS[name].flag for name in given if kind not in OPTIONS[name].kinds]
        refuse_foreign(f"{model.source.path.name} is", kind, foreign)

    def _resolve_encoder(self, model: Model) -> ResolvedExport:
        batch = 1 if self.batch is None else self.batch
        check("batch", batch)
        normalization = self._normalization(model)
        if self.image_input:
            _check_image(model, normalized=normalization is not None)
        targets = {}
        for target in map(backend, self._target_names):
            if self.image_input and not target.takes_images:
                able = [name for name in TARGETS if backend(name).takes_images]
                raise UnsupportedError(
                    f"{target.title} has no type for images; --image-input is for {' and '.join(able)}"
                )
            weights = choice(target, "weights", self.weights, causal=False)
            if self.weights is None and _ENCODER_WEIGHTS in target.schemes:
                weights = _ENCODER_WEIGHTS
            form = choice(target, "form", self.form, causal=False)
            targets[target.name] = TargetSpec(
                form=form,
                weights=weights,
                batch=batch,
                image=bool(self.image_input),
                block=self._block(target, weights),
                soc=soc_of(target, self.soc),
                memory_mode=around_chip(target, "memory_mode", self.memory_mode),
                system_config=around_chip(target, "system_config", self.system_config),
            )
        return ResolvedExport(
            targets=targets,
            out=self._folder(model),
            head=self.head,
            normalization=normalization,
            allow_fp16_overflow=self.allow_fp16_overflow,
            verify=self.verify,
            overwrite=self.overwrite,
        )

    def _resolve_decoder(self, model: Model) -> ResolvedExport:
        self._check_companions()
        devices = tuple(device_names(self.devices or (), self.own_devices))
        positions = model.config.positions
        if self.context is not None and self.context > positions and self.allow_longer:
            model = model.with_context(self.context, allow_longer=True)
        else:
            beyond = " (--allow-longer goes beyond)" if model.config.computed_positions else ""
            check("context", self.context, positions, f": the model was trained for {positions} positions{beyond}")
        tokenizer = self._opened_tokenizer(model)
        ends = self._ends(tokenizer, model.config.vocab_size)
        targets, reasons = {}, []
        for choices, why in self._chosen(model):
            target = backend(choices.target or TARGETS[0])
            context = model.config.default_context if choices.context is None else choices.context
            _check_chunk(self.chunk, context)
            weights = choice(target, "weights", choices.weights)
            targets[target.name] = TargetSpec(
                form=choice(target, "form", choices.form),
                weights=weights,
                state=choice(target, "state", choices.state),
                context=context,
                chunk=min(_DEFAULT_CHUNK, context) if choices.chunk is None else choices.chunk,
                bos_id=tokenizer.bos_id if tokenizer else None,
                eos_token_ids=ends.ids,
                tokenizer=self.tokenizer,
                block=self._block(target, weights),
                soc=soc_of(target, choices.soc),
                memory_mode=around_chip(target, "memory_mode", self.memory_mode),
                system_config=around_chip(target, "system_config", self.system_config),
            )
            reasons += [why] if why else []
        return ResolvedExport(
            targets=targets,
            out=self._folder(model),
            head=self.head,
            calibrate=self.calibrate,
            resume=bool(self.resume),
            tuning={spec.weights: self._steps(model, spec.weights) for spec in targets.values()},
            tokenizer=tokenizer,
            ends=ends,
            notes=tokenizer.notes(model.config.vocab_size, ends) if tokenizer else (),
            text=self.text,
            max_degradation=_DEFAULT_MAX_DEGRADATION if self.max_degradation is None else self.max_degradation,
            devices=devices,
            own_devices=self.own_devices,
            allow_fp16_overflow=self.allow_fp16_overflow,
            verify=self.verify,
            overwrite=self.overwrite,
            reasons=tuple(dict.fromkeys(reasons)),
        )

    @property
    def _target_names(self) -> tuple[str, ...]:
        return TARGETS[:1] if self.targets is None else tuple(dict.fromkeys(self.targets))

    def _folder(self, model: Model) -> Path:
        return _DEFAULT_FOLDER / model.source.name if self.out is None else self.out

    def _chosen(self, model: Model) -> list[tuple[Choices, str]]:
        """For each target what was asked for, completed by a preset where one or a device was named; and why."""
        if self.targets is not None and len(self._target_names) > 1 and self.preset is not None:
            raise InputError(
                f"a recipe is for one target, and {', '.join(self._target_names)} were asked for; leave out --target"
            )
        asked = ("form", self.form), ("weights", self.weights), ("state", self.state)
        for name in self.targets or ():
            for what, value in asked:
                choice(backend(name), what, value)
        for what, value in asked:  # before a budget is worked out of a name that nobody knows
            if self.targets is None and value and not offering(what, value):
                choice(backend(TARGETS[0]), what, value)
        chosen = []
        names: tuple[str | None, ...] = (None,) if self.targets is None else self._target_names
        for target in names:
            choices = Choices(
                target, self.form, self.weights, self.state, self.context, self.chunk, head=self.head, soc=self.soc
            )
            device = self.devices[0] if self.devices else None
            chosen.append(choose(model, choices, preset=self.preset, device=device, devices=self.own_devices))
        return chosen

    def _check_companions(self) -> None:
        """Numbers beyond their range, and options that do nothing without another one."""
        check("tune", self.tune)
        if self.tune and self.calibrate is None:
            raise InputError("tuning needs a text; give one with --calibrate")
        if self.resume and self.calibrate is None:
            raise InputError("--resume takes calibrated weights; give the --calibrate of the export that kept them")
        _check_chunk(self.chunk, self.context)
        check_degradation(self.max_degradation, self.text)
        if self.own_devices is not None and not self.devices:
            raise InputError(f"{self.own_devices} says what devices there are; name one with --device")
        for purpose, path in (("calibrating on", self.calibrate), ("measuring the perplexity on", self.text)):
            if path is None:
                continue
            check_file(path, InputError, "text file")
            if self.tokenizer is None:
                raise InputError(f"{purpose} {path} needs the model's tokenizer; give it with --tokenizer")

    def _opened_tokenizer(self, model: Model) -> Tokenizer | None:
        if self.tokenizer is None:
            return None
        tokenizer = Tokenizer(self.tokenizer)
        tokenizer.check_fits(model.config.vocab_size)
        tokenizer.check_ids()
        return tokenizer

    def _ends(self, tokenizer: Tokenizer | None, vocab_size: int) -> Ends:
        if self.eos is not None:
            return Ends(eos_ids(self.eos, tokenizer, vocab_size), "--eos")
        return tokenizer.ends if tokenizer else NONE

    def _block(self, target: Target, weights: str) -> int | None:
        """The block of an export that was asked for; None: the scheme's own.

        Raises:
            InputError: the precisions leave no choice.
            UnsupportedError: the target has no such blocks.
        """
        check("block", self.block)
        schemes = [target.schemes.get(name) for name in (weights, self.head) if name]
        open_ = [scheme for scheme in schemes if isinstance(scheme, Scheme) and scheme.blocks]
        if self.block is None:
            return None
        if not open_:
            raise InputError(
                f"--block {self.block} is for weights int4; {target.title} stores {weights} in one way only"
            )
        for scheme in open_:
            if self.block not in scheme.blocks:
                raise UnsupportedError(
                    f"{target.title} has no blocks of {self.block} in {scheme.name}; choose --block "
                    f"{', '.join(map(str, scheme.blocks[:-1]))} or {scheme.blocks[-1]}"
                )
        return self.block

    def _steps(self, model: Model, weights: str) -> int:
        if self.calibrate is None:
            return 0
        return tuning_steps(model, weights) if self.tune is None else self.tune

    def _normalization(self, model: Model) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        if self.mean is None and self.std is None:
            return None
        input_ = model.config.input
        if not isinstance(input_, Image):
            raise InputError(f"{model.source.path.name} takes {input_.kind}; only images have a mean and a deviation")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None or len(values) != input_.channels:
                said = None if values is None else list(values)
                raise InputError(
                    f"{name} is {said}; it needs {input_.channels} numbers, one a channel, and mean and std go together"
                )
        mean, std = self.mean or (), self.std or ()
        for name, values in (("mean", mean), ("std", std)):
            for value in values:
                check(name, value)
        return mean, std


def kind_of(model: Model) -> Kind:
    """Whether it is a language model, which keeps a state, or an encoder."""
    return "encoder" if not model.causal else "decoder"


def tokenizer_beside(model: Model) -> Path | None:
    """The ``tokenizer.json`` that lies beside a language model's checkpoint, if one does."""
    path = model.source.folder / "tokenizer.json"
    return path if kind_of(model) in OPTIONS["tokenizer"].kinds and is_file(path) else None


def check_variant(model: Model, claim: str | None) -> None:
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


def check_degradation(most: float | None, text: Path | None) -> None:
    """Raise `InputError` if that is no bound, or nothing to measure it on was given."""
    if most is None:
        return
    check("max_degradation", most * 100)
    if text is None:
        raise InputError("--max-degradation is of the perplexity on a text; give one with --text")


def _check_chunk(chunk: int | None, context: int | None) -> None:
    check("chunk", chunk, context, "" if context is None else f" with a context of {context}")


def _check_image(model: Model, *, normalized: bool) -> None:
    input_ = model.config.input
    if not isinstance(input_, Image):
        raise InputError(f"{model.source.path.name} takes {input_.kind}, not an image: leave out --image-input")
    if input_.mean is None and not normalized:
        raise InputError(
            f"how the images of '{model.config.task}' were normalized is not known; give --mean and --std, one number "
            f"a channel, for pixels of 0 to 1"
        )
