"""edgeqkv: trained transformers that share key and value projections, exported to phones and proven.

    import edgeqkv

    model = edgeqkv.load("model.pt")
    bundle = edgeqkv.export(model, "onnx", out="build/phone")
    session = edgeqkv.open("build/phone", target="onnx")
    logits = session.feed([1, 2, 3])

Importing this package loads nothing heavy: torch and the runtimes come with the first function that needs them.
"""

from edgeqkv import process  # noqa: F401  before all else: it keeps imports away from the current folder

# isort: split
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeqkv.budget import budget
from edgeqkv.convert import convert
from edgeqkv.errors import (
    BundleError,
    CheckpointError,
    ContextFull,
    EdgeQKVError,
    InputError,
    MissingExtra,
    UnsupportedError,
    VariantError,
    VerificationFailed,
)
from edgeqkv.extras import needed_for
from edgeqkv.model.variants import Sharing, Variant
from edgeqkv.progress import Progress, silent
from edgeqkv.settings import check, check_all

if TYPE_CHECKING:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.model.model import Model
    from edgeqkv.pipeline.bench import BenchResult
    from edgeqkv.pipeline.comparison import Compared
    from edgeqkv.run.session import EncoderSession, Session

__all__ = [
    "BundleError",
    "CheckpointError",
    "ContextFull",
    "EdgeQKVError",
    "InputError",
    "MissingExtra",
    "Sharing",
    "UnsupportedError",
    "Variant",
    "VariantError",
    "VerificationFailed",
    "bench",
    "budget",
    "compare",
    "convert",
    "export",
    "load",
    "open",
]


def load(path: str | Path, *, heads: int | None = None, ema: bool = False) -> "Model":
    """Read a checkpoint: its variant, its dimensions, and its weights, which stay in the file until they are used.

    Args:
        path: ``model.pt``, ``model.safetensors``, or a Hugging Face model: its directory or ``org/name``.
        heads: attention heads, for a vision checkpoint that does not say how many.
        ema: take the averaged weights (``ema_state_dict``), not the last step's.

    Raises:
        CheckpointError: it is no model that edgeqkv can read; the message says why.
        InputError: ``heads`` or ``ema`` are not for this checkpoint.
        MissingExtra: reading it needs a package.

    >>> model = edgeqkv.load("model.pt")
    >>> str(model.variant), model.parameters, model.config.positions
    ('q-k=v+gqa2', 890880, 512)
    """
    check("heads", heads)
    with needed_for("reading a checkpoint"):
        from edgeqkv import checkpoints
    return checkpoints.load(path, heads=heads, ema=ema)


def export(
    model: "Model",
    target: str | Sequence[str] | None = None,
    *,
    out: str | Path,
    variant: str | None = None,
    form: str | None = None,
    weights: str | None = None,
    state: str | None = None,
    context: int | None = None,
    allow_longer: bool = False,
    chunk: int | None = None,
    batch: int | None = None,
    head: str | None = None,
    block: int | None = None,
    tokenizer: str | Path | None = None,
    eos: int | str | Sequence[int | str] | None = None,
    calibrate: str | Path | None = None,
    tune: int | None = None,
    resume: bool = False,
    text: str | Path | None = None,
    max_degradation: float | None = None,
    image_input: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preset: str | Path | None = None,
    soc: str | None = None,
    memory_mode: str | None = None,
    system_config: str | None = None,
    devices: Sequence[str] = (),
    own_devices: str | Path | None = None,
    allow_fp16_overflow: bool = False,
    verify: bool = True,
    overwrite: bool = False,
    on_progress: Progress = silent,
) -> "Bundle":
    """Write a model for one or more targets as a bundle, and prove it.

    What is not said is chosen by the preset, by the first preset of the first device that fits, or else is the target's
    default. Options are for language models or for encoders where that is said, and an error for the others.

    Args:
        model: what `load` returned.
        target: ``onnx``, ``executorch``, ``coreml``, ``hexagon``, ``ethos-u85``, or several of them; the preset's if
            not given, or ``onnx``.
        out: the folder to write; it appears only if all went well.
        variant: a claim to be checked, in any accepted spelling.
        form: which form of the graph.
        weights: precision of the stored weights.
        state: language models: precision of the stored state.
        context: language models: tokens that the state has room for; the model's positions if not given, or 2048 where
            those are computed and more.
        allow_longer: language models: let the context be longer than what the model was trained for, where positions
            are computed.
        chunk: language models: the most tokens of a prefill call; 128, or the context if that is less.
        batch: encoders: inputs that a call takes; 1 if not given.
        head: precision of the token table and the head, if it is to differ from ``weights``.
        block: int4: values of a row that share a scale: 32, 64 or 128; if not given, 32.
        tokenizer: language models: a ``tokenizer.json`` to put into the bundle.
        eos: language models: the tokens that end a text, by their ids or as the tokenizer has them; if not given, those
            that the tokenizer and the files beside it say.
        calibrate: language models: a text file on which to calibrate the quantization; without one it rounds to
            nearest.
        tune: language models: steps of tuning after the calibration; `edgeqkv.quantize.tuning_steps` if not given.
        resume: language models: take the calibrated weights that the same export kept when it failed a check.
        text: language models: a text file on which to measure the perplexity of every artifact and of the model.
        max_degradation: how much higher an artifact's perplexity on ``text`` may be, as a part of the model's; 0.03 if
            not given.
        image_input: encoders: take an image of the target's own type, and normalize it in the graph.
        mean: encoders: of each channel of an image whose pixels are 0 to 1, what was subtracted in training; the task's
            own if the file says which task it was.
        std: encoders: what the difference was divided by.
        preset: language models: the name or the file of a recipe.
        soc: the chip to compile for, where a target compiles for chips (``hexagon``: v73, v75, v79, v81;
            ``ethos-u85``: the MACs a cycle, 128 to 2048).
        memory_mode: ``ethos-u85``: where weights and working data lie, as Arm's compiler calls it.
        system_config: ``ethos-u85``: what the memories are, likewise.
        devices: language models: names of devices, to choose a preset for the first of them, and to put a memory budget
            for all of them into the bundle (`budget`).
        own_devices: a file of devices of the user's own.
        allow_fp16_overflow: write a target that computes in fp16 (Core ML) even if the model's activations are beyond
            its range, which is estimated at every export; the manifest then names them.
        verify: compare every artifact with the model before it is called done.
        overwrite: replace a bundle at ``out``.
        on_progress: told of the progress.

    Raises:
        VerificationFailed: an artifact does not compute what the model does, or its perplexity is too high; no bundle
            is written.
        EdgeQKVError: the input is wrong; the subclass says in which way.

    >>> bundle = edgeqkv.export(edgeqkv.load("model.pt"), "onnx", out="build/phone", context=64, weights="int8")
    >>> card = bundle.target("onnx")
    >>> card.verification.passed, card.artifact.state_bytes
    (True, 65536)
    """
    with needed_for("exporting"):
        from edgeqkv.pipeline.export import run_export
        from edgeqkv.pipeline.spec import ExportSpec
    spec = ExportSpec(
        targets=(target,) if isinstance(target, str) else None if target is None else tuple(target),
        variant=variant,
        form=form,
        weights=weights,
        state=state,
        context=context,
        allow_longer=allow_longer or None,
        chunk=chunk,
        batch=batch,
        head=head,
        block=block,
        tokenizer=_path(tokenizer),
        eos=(eos,) if isinstance(eos, int | str) else None if eos is None else tuple(eos),
        calibrate=_path(calibrate),
        tune=tune,
        resume=resume or None,
        text=_path(text),
        max_degradation=max_degradation,
        image_input=image_input or None,
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        preset=preset,
        soc=soc,
        memory_mode=memory_mode,
        system_config=system_config,
        devices=tuple(devices) or None,
        own_devices=_path(own_devices),
        allow_fp16_overflow=allow_fp16_overflow,
        verify=verify,
        out=Path(out),
        overwrite=overwrite,
    )
    return run_export(model, spec.resolve(model), on_progress)


def open(path: str | Path, target: str | None = None, engine: str | None = None) -> "Session | EncoderSession":
    """Open a bundle for running, after comparing its files with their checksums.

    Args:
        path: the folder that `export` wrote.
        target: which of its targets; the only one if not given.
        engine: what is to run it; the target's default if not given.

    Returns:
        A session: a decoder's to ``feed``, an encoder's to ``run``.

    Raises:
        BundleError: it is missing, damaged or changed.
        UnsupportedError: it holds no such target, or nothing here runs it.
        MissingExtra: the runtime is not installed.

    >>> bundle = edgeqkv.export(edgeqkv.load("model.pt"), "onnx", out="build/tiny", context=64, verify=False)
    >>> session = edgeqkv.open("build/tiny")
    >>> logits = session.feed([1, 2, 3])
    >>> logits.shape, session.position, session.capacity
    ((1024,), 3, 64)
    """
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.run.session import open_bundle

    return open_bundle(Bundle(path), target, engine)


def bench(
    path: str | Path | Sequence[str | Path],
    target: str | None = None,
    *,
    prompt: int = 128,
    generate: int = 16,
    fills: Sequence[int] | None = None,
    repeats: int = 5,
    rounds: int = 3,
    warmup: int = 1,
    threads: int | None = None,
    engine: str | None = None,
    on_progress: Progress = silent,
) -> "tuple[BenchResult, ...]":
    """Measure how fast bundles run here, in turn, each time in a process of its own.

    Args:
        path: the folder that `export` wrote, or several, which are then measured against each other.
        target: which of their targets; all if not given.
        prompt: tokens of the prompt; of an encoder, the inputs.
        generate: tokens that are fed one by one at each fill of the state.
        fills: tokens that stand in the state before them; 128, half the context and nearly all of it if not given.
        repeats: repetitions in each process that count.
        rounds: processes of each bundle.
        warmup: repetitions in each process before those that count.
        threads: how many the runtime may use; as many as it likes if not given.
        engine: what is to run it; the target's default if not given.
        on_progress: told of the progress.

    Returns:
        One result for each target of each bundle, in their order: times with every sample, memory, and which share of
        this machine's read bandwidth decoding came to.

    Raises:
        InputError: a number is beyond its range, or the tokens do not fit into the context.
        BundleError: a bundle is missing, damaged or changed.

    >>> bundle = edgeqkv.export(edgeqkv.load("model.pt"), "onnx", out="build/fast", context=64, verify=False)
    >>> (result,) = edgeqkv.bench("build/fast", prompt=16, generate=4, repeats=1, rounds=1)
    >>> result.target, [each.fill for each in result.decode]
    ('onnx', [32, 60])
    >>> result.decode[0].milliseconds.p50 > 0, result.peak_bytes > result.imported_bytes
    (True, True)
    """
    paths = (path,) if isinstance(path, str | Path) else tuple(path)
    check_all(prompt=prompt, generate=generate, repeats=repeats, rounds=rounds, warmup=warmup, threads=threads)
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.pipeline.bench import bench_bundles

    return bench_bundles(
        [Bundle(each) for each in paths],
        target,
        prompt=prompt,
        generate=generate,
        fills=fills,
        repeats=repeats,
        rounds=rounds,
        warmup=warmup,
        threads=threads,
        engine=engine,
        on_progress=on_progress,
    )


def compare(
    paths: Sequence[str | Path],
    device: str | Sequence[str] = (),
    *,
    devices: str | Path | None = None,
    bench: bool = False,
    on_progress: Progress = silent,
) -> "tuple[Compared, ...]":
    """Put bundles side by side: what they are, what they take, how good they are, and where they fit.

    Args:
        paths: the folders that `export` wrote.
        device: names of the catalogue, whose verdicts are wanted.
        devices: a file of the user's own devices.
        bench: measure their speed as well, as `bench` does by default.
        on_progress: told of the progress.

    Returns:
        One record for each target of each bundle, in their order.

    Raises:
        InputError: there is but one thing to compare, one is named twice, or a device is unknown.
        BundleError: a bundle is missing, damaged or changed.

    >>> model = edgeqkv.load("model.pt")
    >>> for weights in ("int4", "int8"):
    ...     bundle = edgeqkv.export(model, out=f"build/{weights}", weights=weights, context=64, verify=False)
    >>> small, large = edgeqkv.compare(["build/int4", "build/int8"], "pixel-9-pro")
    >>> small.file_bytes < large.file_bytes, small.devices["Pixel 9 Pro"].verdict
    (True, 'fits')
    """
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.pipeline.comparison import compare_bundles

    given = (device,) if isinstance(device, str) else tuple(device)
    on_progress("reading bundles", None)
    bundles = [Bundle(path) for path in paths]
    compared = compare_bundles(bundles, given, _path(devices))  # before minutes of measuring
    if not bench:
        return compared
    speeds = _bench([bundle.path for bundle in bundles], on_progress=on_progress)
    return compare_bundles(bundles, given, _path(devices), speeds)


_bench = bench


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
