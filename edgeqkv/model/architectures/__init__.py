"""The architectures, each written once over `edgeqkv.model.ops`, and built from dimensions alone (`shaped`)."""

from __future__ import annotations

from edgeqkv.model import shapes
from edgeqkv.model.architectures import decoder
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.architectures.encoder import SetEncoder, TokenEncoder, shaped_head, shaped_trunk
from edgeqkv.model.architectures.vision import VisionTransformer
from edgeqkv.model.config import DecoderConfig, EncoderConfig, Features, Tokens
from edgeqkv.model.variants import Variant

__all__ = ["shaped"]


def shaped(
    config: DecoderConfig | EncoderConfig, variant: Variant
) -> Decoder | TokenEncoder | SetEncoder | VisionTransformer:
    """The network of these dimensions, with weights that have shapes and no numbers (`edgeqkv.model.shapes`)."""
    if isinstance(config, DecoderConfig):
        return decoder.shaped(config, variant)
    trunk, head, width, input_ = shaped_trunk(config, variant), shaped_head(config), config.hidden_size, config.input
    positions = shapes.weight("position_table", config.tokens, width)
    if isinstance(input_, Tokens):
        return TokenEncoder(shapes.weight("token_table", input_.vocab_size, width), positions, trunk, head)
    if isinstance(input_, Features):
        return SetEncoder(shapes.linear("stem", width, input_.size), trunk, head)
    return VisionTransformer(
        patch=input_.patch,
        stem=shapes.linear("stem", width, input_.channels * input_.patch**2),
        cls=shapes.weight("cls", 1, width),
        position_table=positions,
        trunk=trunk,
        head=head,
    )
