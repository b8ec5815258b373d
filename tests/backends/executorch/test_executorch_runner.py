"""Our file in ExecuTorch's own text generation, which the mobile apps' runners share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import edgeqkv
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.demo import checkpoint_path, heldout_path, tokenizer_path
from edgeqkv.progress import silent
from edgeqkv.run.generate import generate
from edgeqkv.run.session import open_artifact
from edgeqkv.run.tokenizer import Tokenizer

CONTEXT, CHUNK, NEW_TOKENS = 160, 16, 48


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    folder = tmp_path_factory.mktemp("pte")
    model = edgeqkv.load(checkpoint_path()).with_context(CONTEXT).with_weights("fp32")
    spec = TargetSpec("stock", "fp32", "fp32", CONTEXT, CHUNK)
    return folder, TARGET.export(model, folder, spec, silent)


@pytest.fixture(scope="session")
def stock_runner() -> ModuleType:
    """The compiled module that holds ``TextLLMRunner``.

    Its Python package imports `transformers` for the multimodal runner's sake; the text runner needs nothing of it.
    """
    # A namespace package: this folder of tests may be a part of it too.
    roots = importlib.util.find_spec("executorch").submodule_search_locations
    files = (file for root in roots for file in (Path(root) / "extension" / "llm" / "runner").glob("_llm_runner*"))
    (library,) = (file for file in files if file.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location("_llm_runner", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stock_runner_writes_what_our_session_does(
    exported: tuple[Path, Artifact], stock_runner: ModuleType, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    tokenizer = Tokenizer(tokenizer_path())
    folder, artifact = exported
    prompt = heldout_path().read_text(encoding="utf-8")[:200]
    assert len(tokenizer.encode(prompt)) > 2 * CHUNK
    session = open_artifact(folder, artifact, "executorch")
    ours = list(generate(session, tokenizer, prompt, max_tokens=NEW_TOKENS))
    assert len(ours) == NEW_TOKENS

    runner = stock_runner.TextLLMRunner(str(folder / "model.pte"), str(tokenizer_path()))
    config = stock_runner.GenerationConfig(echo=False, max_new_tokens=NEW_TOKENS, temperature=0.0)
    capfdbinary.readouterr()
    # It writes to the standard output what it generates, then a line of statistics. Its callback would be of no
    # use: it fails where a token ends within a character.
    runner.generate(prompt, config)
    written, statistics = capfdbinary.readouterr().out.split(b"PyTorchObserver")
    # It counts the first token, which the prefill gives, with the prompt.
    assert f'"generated_tokens":{NEW_TOKENS - 1}'.encode() in statistics
    # It prints no lone byte of a character that two tokens make up, so only ASCII can be compared.
    text = tokenizer.decode(ours)
    assert len(text) > NEW_TOKENS
    assert _ascii(written.decode(errors="replace")) == _ascii(text)


def test_what_its_limit_counts_where_a_chunk_is_shorter_than_the_context(
    exported: tuple[Path, Artifact], stock_runner: ModuleType, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The new tokens alone, and nothing stops it at the end of the context: docs/executorch.md tells apps to."""
    folder, _ = exported
    prompt = heldout_path().read_text(encoding="utf-8")[:100]
    tokenizer = Tokenizer(tokenizer_path())
    # The last token that is generated is not fed any more, and so needs no position.
    room = CONTEXT - len(tokenizer.encode(prompt)) + 1

    def generate_up_to(length: int) -> bytes:
        runner = stock_runner.TextLLMRunner(str(folder / "model.pte"), str(tokenizer_path()))
        runner.generate(prompt, stock_runner.GenerationConfig(echo=False, seq_len=length, temperature=0.0))
        return bytes(capfdbinary.readouterr().out)

    assert f'"generated_tokens":{room - 1}'.encode() in generate_up_to(room)
    with pytest.raises(RuntimeError, match="Generation failed"):
        generate_up_to(CONTEXT)


def _ascii(text: str) -> str:
    return "".join(character for character in text if character.isascii()).strip()
