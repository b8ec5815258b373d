"""The command line: one thin function a command. The work is done by the modules of the same names.

Exit codes: 0 fine, 1 a check failed (verification, budget), 2 wrong input.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import edgeqkv
from edgeqkv.cli import budget_commands as commands
from edgeqkv.cli import console, encoder_commands, summaries
from edgeqkv.errors import EdgeQKVError, InputError, VerificationFailed
from edgeqkv.extras import installed_version, needed_for

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgeqkv",
    help="Export transformers that share key and value projections to phones: one merged KV state, proven.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Target = Annotated[
    str | None, typer.Option("--target", "-t", help="Which of the bundle's targets; the only one by default.")
]
Engine = Annotated[str | None, typer.Option("--engine", help="What is to run it; the target's default if not given.")]
BundlePath = Annotated[Path, typer.Argument(metavar="DIR", help="A bundle: the folder that 'export' wrote.")]
Heads = Annotated[
    int | None, typer.Option("--heads", help="Attention heads, for a vision checkpoint that does not say how many.")
]
CheckpointPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint: model.pt or model.safetensors.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")] = False,
) -> None:
    if version:
        typer.echo(installed_version("edgeqkv"))
        raise typer.Exit


@app.command()
def inspect(model: CheckpointPath, heads: Heads = None, as_json: Json = False) -> None:
    """Say what a checkpoint is: variant, sizes, KV state per token."""
    loaded = edgeqkv.load(model, heads=heads)
    from edgeqkv.cli.inspect import describe  # after what says which package is missing, if torch is
    from edgeqkv.model.model import EncoderModel

    encoder = isinstance(loaded, EncoderModel)
    facts = encoder_commands.describe(loaded) if isinstance(loaded, EncoderModel) else describe(loaded)
    if as_json:
        console.print_json(facts)
    else:
        (encoder_commands.show_model if encoder else summaries.show_model)(facts)


@app.command()
def export(
    model: CheckpointPath,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="onnx; repeat it or give a comma list. Default: the recipe's, or onnx."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder to write. Default: build/NAME of the model."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="A claim to be checked, such as qk_v+gqa4. Default: detected."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Precision of the stored weights: int4, int8, fp16, fp32, or lut4 (coreml). Default: the target's.",
        ),
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Precision of the KV state: fp32, fp16, int8. Default: the target's.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens the state has room for. Default: the model's positions."),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option("--chunk", help="Most tokens of a prefill call. Default: 128, or the context if less."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--form", help="Form of the graph; see the target's page in docs/.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="tokenizer.json to put into the bundle. Default: one beside MODEL."),
    ] = None,
    keep_head: Annotated[
        str | None,
        typer.Option("--keep-head", help="Precision of token table and head, if it is to differ: int8, fp16, fp32."),
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option("--calibrate", metavar="TEXT", help="Text on which to calibrate the quantization.")
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            "--tune",
            metavar="STEPS",
            help="Steps of tuning after --calibrate. Default: 300 for int4 of at most 10 M parameters (a minute or two "
            "for 1 M, a quarter of an hour for 10 M), else 0.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="TEXT", help="Text on which to measure the perplexity.")
    ] = None,
    max_degradation: Annotated[
        float, typer.Option("--max-degradation", help="Percent by which the perplexity on --text may rise.")
    ] = 3.0,
    heads: Heads = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Encoders: inputs that a call takes. Default: 1.")
    ] = None,
    image_input: Annotated[
        bool, typer.Option("--image-input", help="Encoders, Core ML: take an image and normalize it in the graph.")
    ] = False,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Encoders: what was subtracted from pixels of 0 to 1, with commas.")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="Encoders: what the difference was divided by, with commas.")
    ] = None,
    recipe: commands.RecipeName = None,
    device: commands.DeviceNames = None,
    own_devices: commands.DevicesFile = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove the result before it is called done.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a bundle at --out.")] = False,
    as_json: Json = False,
) -> None:
    """Write MODEL as a bundle for one or more targets, and prove it."""
    from edgeqkv.budget.recipes import Choices

    named = [name.strip() for entry in target or [] for name in entry.split(",")]
    started = time.perf_counter()
    loaded, out = edgeqkv.load(model, heads=heads), out or Path("build") / model.stem
    from edgeqkv.model.model import EncoderModel  # after what says which package is missing, if torch is

    of_encoders = {"--batch": batch, "--image-input": image_input, "--mean": mean, "--std": std}
    of_language_models = {
        "--context": context,
        "--chunk": chunk,
        "--state": state,
        "--tokenizer": tokenizer,
        "--calibrate": calibrate,
        "--text": text,
        "--recipe": recipe,
        "--device": device,
    }
    if isinstance(loaded, EncoderModel):
        options = {
            "variant": variant,
            "weights": weights,
            "batch": batch or 1,
            "form": form,
            "head": keep_head,
            "image_input": image_input,
            "mean": encoder_commands.numbers(mean, "--mean"),
            "std": encoder_commands.numbers(std, "--std"),
            "verify": verify,
            "overwrite": force,
        }
        bundle = encoder_commands.export(loaded, named or ["onnx"], out, options, of_language_models)
        if as_json:
            console.print_json({"bundle": str(bundle.path), **bundle.manifest.model_dump(mode="json")})
        else:
            encoder_commands.show_bundle(bundle, started)
        return
    if foreign := [name for name, value in of_encoders.items() if value]:
        raise InputError(f"{model.name} is a language model, and {', '.join(foreign)} is for encoders")
    if tokenizer is None and (beside := model.with_name("tokenizer.json")).is_file():
        tokenizer = beside
    asked = Choices(None, form, weights, state, context, chunk)
    targets, choices = commands.complete(loaded, named, asked, recipe, device or [], own_devices)
    with console.progress() as report:
        bundle = edgeqkv.export(
            loaded,
            targets,
            out=out,
            variant=variant,
            weights=choices.weights,
            state=choices.state,
            context=choices.context,
            chunk=choices.chunk,
            form=choices.form,
            tokenizer=tokenizer,
            head=keep_head,
            calibrate=calibrate,
            tune=tune,
            text=text,
            max_degradation=max_degradation / 100,
            devices=device or (),
            own_devices=own_devices,
            verify=verify,
            overwrite=force,
            report=report,
        )
    if as_json:
        console.print_json({"bundle": str(bundle.path), **bundle.manifest.model_dump(mode="json")})
        return
    summaries.show_bundle(bundle, time.perf_counter() - started)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="A bundle, or a Core ML package (.mlpackage).")],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="MODEL", help="The checkpoint; without it the bundle's own proof."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="TEXT", help="Text on which to measure the perplexity too.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="tokenizer.json, if the bundle holds none.")
    ] = None,
    max_degradation: Annotated[
        float, typer.Option("--max-degradation", help="Percent by which the perplexity may be above --against's.")
    ] = 3.0,
    heads: Heads = None,
    target: Target = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Prove a bundle again: its files, and its logits against the original's. Exits 1 if they differ."""
    if bundle.suffix == ".mlpackage":
        _verify_package(bundle, against, heads, engine, as_json)
        return
    from edgeqkv.bundle.bundle import Bundle

    opened = Bundle(bundle)
    if opened.manifest.model.kind == "encoder":
        encoder_commands.verify(opened, against, heads, target, engine, as_json)
        return
    original = _language_model(against)
    words = _tokenizer_of(opened, tokenizer) if text else None
    results, measured = {}, {}
    with console.progress() as report, needed_for("verifying"):
        from edgeqkv.pipeline.verify import verify as verify_bundle
        from edgeqkv.run.perplexity import excess, measure
        from edgeqkv.run.tokenizer import read_text

        for name in [target] if target else opened.targets:
            report(f"verifying {name}", None)
            results[name] = verify_bundle(opened, name, against=original, engine=engine)
            if text and words:
                tokens = words.encode(read_text(text))
                measured[name] = measure(opened.session(name), tokens, text.name, original, report)
    if as_json:
        told = {
            name: result.model_dump(mode="json")
            | ({"quality": measured[name].model_dump(mode="json")} if name in measured else {})
            for name, result in results.items()
        }
        console.print_json({"bundle": str(bundle), "targets": told})
    else:
        for name, result in results.items():
            rows: list[tuple[str, object]] = [("verified", summaries.verdict(result))]
            rows += [("perplexity", summaries.perplexity(measured[name]))] if name in measured else []
            console.print_facts(f"{bundle} · {name}", rows)
    problems = [
        f"{bundle} does not compute what the original does: {name}: {result.failure}"
        for name, result in results.items()
        if not result.passed
    ]
    problems += filter(None, (excess(quality, name, max_degradation / 100) for name, quality in measured.items()))
    if problems:
        # Printed and not raised: the results are out already, and JSON stays one document.
        failure = VerificationFailed("; ".join(problems))
        console.print_error(failure)
        raise typer.Exit(failure.exit_code)


@app.command()
def generate(
    bundle: BundlePath,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue.")],
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", help="Tokens to generate at most. Default: until the context is full."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0: always the most likely token.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Draw among so many tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw among tokens of this total probability.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same text.")] = 0,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="tokenizer.json, if the bundle holds none.")
    ] = None,
    target: Target = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Continue a text with the exported artifact itself."""
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.run.generate import Sampling
    from edgeqkv.run.generate import generate as start

    opened = Bundle(bundle)
    opened.target(target)  # whether it continues texts at all
    words = _tokenizer_of(opened, tokenizer)
    sampling = Sampling(temperature, top_k, top_p, seed)
    session = opened.session(target, engine)
    generation = start(session, words, prompt, max_tokens=max_tokens, sampling=sampling)
    if as_json:
        text = "".join(words.stream(generation))
        console.print_json(
            {
                "prompt": prompt,
                "text": text,
                "tokens": generation.tokens,
                "stopped": generation.stopped.name.lower() if generation.stopped else None,
                "position": session.position,
                "capacity": session.capacity,
            }
        )
        return
    _stream(prompt, words.stream(generation))
    console.print_note(
        f"[{len(generation.tokens)} tokens; {session.position} of {session.capacity} positions: {generation.stopped}]"
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("build/demo"),
    target: Annotated[str, typer.Option("--target", "-t", help="Comma list of targets.")] = "onnx",
) -> None:
    """The built-in trained model through all of it: inspect, export, verify, generate."""
    from edgeqkv import demo as built_in

    model, tokenizer = built_in.checkpoint_path(), built_in.tokenizer_path()
    inspect(model)
    typer.echo()
    names = target.split(",")
    # So small a model loses readability at 4 bits, where a larger one does not; every target can do this.
    weights = "fp16"
    replaces = (out / "manifest.json").is_file()
    export(model, target=names, out=out, weights=weights, tokenizer=tokenizer, force=replaces)
    for name in names:
        typer.echo()
        generate(out, prompt=built_in.DEMO_PROMPT, max_tokens=90, target=name)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say which backends can be used here, and how to add what is missing."""
    from edgeqkv.cli.doctor import examine, platform_facts

    found = examine()
    if as_json:
        backends = {
            health.target: {"ready": health.ready, "packages": health.packages, "install": health.install}
            for health in found
        }
        console.print_json({**platform_facts(), "backends": backends})
        return
    console.print_facts("edgeqkv doctor", list(platform_facts().items()))
    typer.echo()
    rows = [
        (
            health.title,
            "ready" if health.ready else "missing",
            ", ".join(f"{name} {version or '(missing)'}" for name, version in health.packages.items()),
            "" if health.ready else health.install,
        )
        for health in found
    ]
    console.print_table(("backend", "state", "packages", "to add it"), rows)


commands.register(app)
encoder_commands.register(app)


def main() -> None:
    """The ``edgeqkv`` command."""
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app()
    except EdgeQKVError as error:
        if debug:
            raise
        if "--json" in sys.argv:
            console.print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        console.print_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe has had enough
        sys.stderr.close()
        sys.exit(0)


def _verify_package(path: Path, against: Path | None, heads: int | None, engine: str | None, as_json: bool) -> None:
    """A Core ML package without its bundle: against the original, or on its own."""
    with console.progress() as report, needed_for("verifying a Core ML package"):
        from edgeqkv.backends.coreml.standalone import examine
        from edgeqkv.model.model import EncoderModel
        from edgeqkv.pipeline.verify import verify_package

        report(f"verifying {path.name}", None)
        if against is None:
            found = examine(path)
            told = {"functions": found}
            wrong = [f"{name} gives results that are not numbers" for name, each in found.items() if not each["finite"]]
        else:
            original = edgeqkv.load(against, heads=heads)
            result = verify_package(path, original, engine)
            told = {"verification": result.model_dump(mode="json")}
            wrong = [] if result.passed else [result.failure]
    if as_json:
        console.print_json({"package": str(path), **told})
    elif against is not None:
        verdict = encoder_commands.verdict if isinstance(original, EncoderModel) else summaries.verdict
        console.print_facts(str(path), [("verified", verdict(result))])
    else:
        for name, each in found.items():
            summaries.show_function(f"{path} · {name}", each)
    if wrong:
        failure = VerificationFailed(f"{path}: {'; '.join(wrong)}")
        console.print_error(failure)
        raise typer.Exit(failure.exit_code)


def _language_model(path: Path | None) -> Any:
    from edgeqkv.model.model import language_model

    return language_model(edgeqkv.load(path), "this comparison") if path else None


def _tokenizer_of(bundle: Any, given: Path | None) -> Any:
    from edgeqkv.run.tokenizer import Tokenizer

    path = given or bundle.tokenizer_path
    if path is None:
        raise InputError(f"{bundle.path} holds no tokenizer; give one with --tokenizer, here or at export")
    words = Tokenizer(path)
    words.check_fits(bundle.target(bundle.targets[0]).artifact.vocab_size)
    return words


def _stream(prompt: str, pieces: Any) -> None:
    sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
