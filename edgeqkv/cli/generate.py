"""``edgeqkv generate``."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from edgeqkv.cli import console
from edgeqkv.cli.opening import end_tokens, open_tokenizer
from edgeqkv.cli.options import BundlePath, Engine, Eos, Json, Target, TokenizerPath
from edgeqkv.settings import check

if TYPE_CHECKING:
    from edgeqkv.run.tokenizer import Tokenizer

__all__ = ["generate"]


def generate(
    bundle: BundlePath,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue; with --chat, to answer.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt into the model's own chat template, and print the answer.")
    ] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", help="Tokens to generate at most. Default: until the context is full."),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0: always the most likely token.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Draw among so many tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw among tokens of this total probability.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same text.")] = 0,
    tokenizer: TokenizerPath = None,
    eos: Eos = None,
    target: Target = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Continue a text, or answer a message, with the exported artifact itself."""
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.run.generate import Sampling
    from edgeqkv.run.generate import generate as start
    from edgeqkv.run.session import Session, open_bundle

    sampling = Sampling(temperature, top_k, top_p, seed)
    check("max_tokens", max_tokens)
    opened = Bundle(bundle)
    opened.check_causal(wanted=True)
    read = open_tokenizer(opened, tokenizer)
    text = _asked(read, prompt) if chat else prompt
    ends = end_tokens(opened, read, eos)
    if not ends:
        console.print_note("no token that ends a text is known, so that none will; name one with --eos")
    session = open_bundle(opened, target, engine)
    assert isinstance(session, Session)
    generation = start(session, read, text, max_tokens=max_tokens, sampling=sampling, eos_token_ids=ends)
    if as_json:
        written = "".join(read.stream(generation))
        console.print_json(
            {
                "prompt": prompt,
                "text": written,
                "tokens": generation.tokens,
                "stopped": generation.stopped.name.lower() if generation.stopped else None,
                "position": session.position,
                "capacity": session.capacity,
            }
        )
        return
    console.print_stream(chain([] if chat else [prompt], read.stream(generation)))
    console.print_note(
        f"[{len(generation.tokens)} tokens; {session.position} of {session.capacity} positions: {generation.stopped}]"
    )


def _asked(tokenizer: Tokenizer, message: str) -> str:
    """What the model continues with its answer to a message."""
    from edgeqkv.run.chat import ChatTemplate

    return ChatTemplate(tokenizer).render([{"role": "user", "content": message}])
