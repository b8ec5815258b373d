"""What a target offers, and what a stage after it may ask of it: the records and protocols of `edgeqkv.backends`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from edgeqkv.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeqkv.backends.inspection import FileFacts
    from edgeqkv.bundle.manifest import Artifact, Graph
    from edgeqkv.model.model import Model
    from edgeqkv.model.schemes import Palette, Scheme
    from edgeqkv.progress import Progress

__all__ = ["Form", "Runner", "SelfContained", "Target", "TargetSpec", "forms_of"]


@dataclass(frozen=True)
class Form:
    """One of the shapes that a target's graphs can have.

    Attributes:
        name: as ``--form`` takes it.
        purpose: what it is for.
        decoder, encoder: which kinds of models it is for.
        static: whether every shape is a number, as NPUs demand.
    """

    name: str
    purpose: str
    decoder: bool = True
    encoder: bool = False
    static: bool = False


@dataclass(frozen=True)
class TargetSpec:
    """What an export to one target is to be, every choice made.

    Attributes:
        form, weights, state: names that the target offers; ``state`` is None for an encoder.
        head: the precision of the token table and the head, where it differs from ``weights``.
        block: columns that share a scale, of schemes that leave it open (`edgeqkv.model.schemes.Scheme.blocks`); None:
            the scheme's own.
        context: tokens that the state has room for; None for an encoder, as ``chunk`` is.
        chunk: the most tokens of a prefill call.
        batch: inputs that a call of an encoder takes.
        image: whether the input is to be an image as the target's system has them; the graph then does what was done to
            a pixel before training.
        bos_id, eos_token_ids, tokenizer: what formats carry that hold them; a file that was given.
        soc: the chip that it is compiled for, where the target compiles for chips.
        memory_mode, system_config: what the memories around it are, where the target's compiler asks.
        examples: what the model is to be looked at on by a target that rounds activations (`Target.needs_examples`):
            token ids ``[n, length]``, or batches of an encoder's inputs ``[n, batch, …]``.
    """

    form: str
    weights: str
    state: str | None = None
    context: int | None = None
    chunk: int | None = None
    batch: int = 1
    head: str | None = None
    image: bool = False
    bos_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    tokenizer: Path | None = None
    block: int | None = None
    soc: str | None = None
    memory_mode: str | None = None
    system_config: str | None = None
    examples: npt.NDArray[Any] | None = field(default=None, compare=False, repr=False)


class Runner(Protocol):
    """What calls the graphs of an artifact that was opened.

    Attributes:
        precision: the coarsest number format that it computes in or stores its state in.
        state_bytes: memory that the state takes of which the runner, or its runtime, is the keeper.
    """

    precision: str
    state_bytes: int

    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        """The outputs by name. State that is not updated by the caller (`StateTensor.update`) is among neither."""

    def close(self, graph: Graph) -> None:
        """Give back what a graph takes; it is opened anew if it is called again."""


class Target(Protocol):
    """What a target offers. Of several forms, schemes or states, the first is the default.

    Attributes:
        name: as ``--target`` takes it.
        title: the format's name for people.
        packages: distributions that it needs, for ``edgeqkv doctor``.
        extra: the extra of edgeqkv that installs them.
        forms: the shapes that its graphs can have.
        schemes: precisions of stored weights, and how it stores the matrices of each; None for floating point.
        states: precisions of the stored state.
        suffixes: how the names of the files end that it writes, which `inspect` reads.
        takes_images: whether an encoder's input can be of a type of the target's own for images.
        engines: what can run it here; the first is what an app runs, or comes closest to it.
        engines_elsewhere: engines that people may ask for and that cannot run here, and why, for people.
        proof_engine: the one that computes what is stored and rounds no more than its arithmetic does.
        range_engine: the one that knows how large every result in fp16 was (its runner has ``peaks``); None without.
        self_describing: how the names of files end that say themselves what they are (`describe`, `examine`).
        socs: the chips that it compiles for.
        memory_modes, system_configs: what its compiler can be told of the memories around a chip, by its own names.
        heads: by the precision of the weights, that of the token table and the head, where it is another unless asked
            for.
        needs_examples: whether it has to see the model's activations (`TargetSpec.examples`).
        experimental: by the name of a form, why its results are not to be relied on; it says so wherever it is shown.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    extra: str
    forms: tuple[Form, ...]
    schemes: ClassVar[Mapping[str, Scheme | Palette | None]]
    states: tuple[str, ...]
    suffixes: tuple[str, ...]
    takes_images: bool
    engines: tuple[str, ...]
    engines_elsewhere: Mapping[str, str]
    proof_engine: str
    range_engine: str | None
    self_describing: tuple[str, ...]
    socs: tuple[str, ...]
    memory_modes: tuple[str, ...]
    system_configs: tuple[str, ...]
    heads: Mapping[str, str]
    needs_examples: bool
    experimental: Mapping[str, str]

    def proven_engines(self, weights: str) -> tuple[str, ...]:
        """The engines by which an export with such weights is proven: `proof_engine`, and what an app runs if that
        computes otherwise."""

    def export(self, model: Model, directory: Path, spec: TargetSpec, on_progress: Progress) -> Artifact:
        """Write the model into ``directory`` and describe what was written.

        ``model`` has the context and the weights that the spec asks for, quantized with the target's schemes.

        Raises:
            UnsupportedError: the target, or this form of it, cannot hold the model.
        """

    def open(self, directory: Path, artifact: Artifact, engine: str) -> Runner:
        """What runs what `export` wrote.

        Raises:
            BundleError: a file is missing or damaged.
        """

    def inspect(self, path: Path) -> FileFacts:
        """What a file of this kind says of itself, whoever made it.

        Raises:
            BundleError: it is missing or damaged.
            MissingExtra: reading it needs a package.
        """

    def describe(self, path: Path) -> Artifact:
        """The description of a self-describing file, from itself; its ``details`` name the ``variant``.

        Raises:
            UnsupportedError: somebody else made it, so that nothing says how it is to be called.
            BundleError: it is damaged.
        """

    def examine(self, path: Path) -> dict[str, Any]:
        """Run everything in a self-describing file once, on zeros, whoever made it; what that showed, by function.

        Raises:
            UnsupportedError: it has operations that nothing here can run; they are named.
            BundleError: it is damaged.
        """


_NONE: Final[Mapping[str, str]] = {}


class SelfContained:
    """What a target answers whose files say nothing of themselves, and whose engines all compute the same."""

    proof_engine: str
    engines_elsewhere: Mapping[str, str] = MappingProxyType({})
    range_engine: str | None = None
    suffixes: tuple[str, ...] = ()
    self_describing: tuple[str, ...] = ()
    socs: tuple[str, ...] = ()
    memory_modes: tuple[str, ...] = ()
    system_configs: tuple[str, ...] = ()
    heads: Mapping[str, str] = _NONE
    needs_examples: bool = False
    experimental: Mapping[str, str] = _NONE

    def proven_engines(self, weights: str) -> tuple[str, ...]:
        return (self.proof_engine,)

    def inspect(self, path: Path) -> FileFacts:
        raise UnsupportedError(f"{path} does not say what it is; inspect the bundle that it came in")

    def describe(self, path: Path) -> Artifact:
        raise UnsupportedError(f"{path} does not say what it is; verify the bundle that it came in")

    def examine(self, path: Path) -> dict[str, Any]:
        raise UnsupportedError(f"{path} does not say what it is; verify the bundle that it came in")


def forms_of(target: Target, *, causal: bool) -> tuple[str, ...]:
    """The names of the forms for language models, or else for encoders."""
    return tuple(form.name for form in target.forms if (form.decoder if causal else form.encoder))
