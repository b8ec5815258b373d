"""The encoders' format: the dict that the paper's scripts save for synthetic, vision and set-anomaly models.

``{task, variant, model, config, test_accuracy, model_state_dict}``, from the authors' public code
(github.com/Brainchip-Inc/Do-Transformers-Need-3-Projections). ``model`` is ``Encoder``, ``ViT`` or
``SetAnomalyModel``. The attention of each variant, every projection ``[d, d]`` with a bias, besides ``c_proj``:

    ==========  =======================  ================================================
    variant     weights                  what they are
    ==========  =======================  ================================================
    qkv         ``c_q, c_k, c_v``
    q=k-v       ``c_qk, c_v``
    q-k=v       ``c_q, c_kv``
    q=k=v       ``c_qkv``
    qvv3        ``c_q1, c_q2, c_v``      q = c_q2(c_q1(x)): one matrix here; k = v = c_v(x)
    +2d         ``pos2d, pos_w, pos_b``  the 2-D position term, see `ScoreTerm`
    ==========  =======================  ================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from edgeqkv.checkpoints.archive import Archive
from edgeqkv.checkpoints.config import BLOCKS, Config
from edgeqkv.checkpoints.tensors import Tensors
from edgeqkv.errors import CheckpointError, VariantError
from edgeqkv.model.architectures.encoder import SetEncoder, TokenEncoder, Trunk
from edgeqkv.model.architectures.vision import VisionTransformer
from edgeqkv.model.layers import MLP, Attention, Block, Heads, Linear, Norm, ScoreTerm
from edgeqkv.model.model import EncoderConfig, Features, Image, Model, Network, Source, Tokens
from edgeqkv.model.variants import Sharing, Variant
from edgeqkv.model.weights import Weight
from edgeqkv.reading import shortened, shown

__all__ = ["NORMALIZATIONS", "Facts", "matches", "read", "read_as"]

_NORM_EPS: Final = 1e-5  # PyTorch's default, which the scripts leave alone

_SHARINGS: Final = {
    ("c_q", "c_k", "c_v"): Sharing.QKV,
    ("c_qk", "c_v"): Sharing.Q_IS_K,
    ("c_q", "c_kv"): Sharing.K_IS_V,
    ("c_qkv",): Sharing.ALL,
    ("c_q1", "c_q2", "c_v"): Sharing.QVV3,
}
_PROJECTIONS: Final = ("c_q", "c_k", "c_v", "c_qk", "c_kv", "c_qkv", "c_q1", "c_q2")

NORMALIZATIONS: Final = {
    "vision-mnist": ((0.1307,), (0.3081,)),
    "vision-fmnist": ((0.2860,), (0.3530,)),
    "vision-cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "vision-cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "vision-imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel, by task: the authors' own, from ``vision_tasks.py`` and
``imagenet_experiment.py``."""

# Members of a set and their features, in the authors' anomaly task.
_SET_SIZE, _SET_FEATURES = 10, 512


@dataclass(frozen=True)
class Facts:
    """What is known of a model besides its weights: from its file's config, or otherwise."""

    model_class: str
    task: str
    config: Mapping[str, Any]
    training: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def matches(archive: Archive) -> bool:
    """Whether the archive is in this format."""
    return {"model_state_dict", "config", "model"} <= archive.contents.keys()


def read(archive: Archive, heads: int | None = None) -> Model:
    """Read the model. ``heads`` is for files that do not tell; this one does.

    Raises:
        CheckpointError: a tensor or a config value is missing, misshapen or contradicts another.
    """
    contents = archive.contents
    model_class, task = contents["model"], contents.get("task")
    facts = Facts(
        model_class=shortened(model_class) if isinstance(model_class, str) else shown(model_class),
        task=task if isinstance(task, str) else "unknown",
        config=archive.entry("config"),
        training=archive.numbers("test_accuracy"),
    )
    model = read_as(archive, facts)
    told = contents.get("variant", facts.config.get("variant"))
    if told is None or (isinstance(told, str) and _names(told, model.variant)):
        return model
    calls = shortened(told) if isinstance(told, str) else shown(told)
    raise CheckpointError(f"{archive.path} calls itself {calls}, and its weights are those of {model.variant}")


def read_as(archive: Archive, facts: Facts) -> Model:
    """Read the model that the facts say is in the archive.

    Raises:
        CheckpointError: it is not.
    """
    return _Reader(archive, facts, Tensors(archive.path, archive.state_dict())).model()


def _names(told: str, variant: Variant) -> bool:
    try:
        return Variant.parse(told) == variant
    except VariantError:
        return False


class _Reader:
    """Takes every tensor exactly once, by name and expected shape, and says what does not fit."""

    def __init__(self, archive: Archive, facts: Facts, tensors: Tensors) -> None:
        self.archive = archive
        self.facts = facts
        self.tensors = tensors
        self.config = Config(archive.path, "config", facts.config)
        self.width = self.config.size("n_embd")
        self.heads = self.config.size("n_head")
        self.layers = self.config.size("n_layer")
        self.inner = self.config.size("n_inner_mult", default=4) * self.width
        if self.width % self.heads:
            raise CheckpointError(
                f"impossible head count in {archive.path}: {self.heads} heads do not divide {self.width} channels"
            )
        self.head_dim = self.width // self.heads
        self.classes = tensors.rows("head.weight")

    def model(self) -> Model:
        read: dict[str, Callable[[], tuple[Network, Tokens | Features | Image, int]]] = {
            "Encoder": self._token_encoder,
            "SetAnomalyModel": self._set_encoder,
            "ViT": self._vision,
        }
        if self.facts.model_class not in read:
            raise CheckpointError(
                f"{self.archive.path} holds a model '{self.facts.model_class}'; edgeqkv knows {', '.join(read)}"
            )
        network, input_, tokens = read[self.facts.model_class]()
        self.tensors.check_all_taken(hint=f"n_layer is {self.layers}")
        self.tensors.check_intact()
        self.config.check_known(self._computed(input_))
        return Model(
            variant=self._variant(network),
            config=EncoderConfig(
                task=self.facts.task,
                layers=self.layers,
                hidden_size=self.width,
                heads=self.heads,
                head_dim=self.head_dim,
                intermediate_size=self.inner,
                classes=self.classes,
                tokens=tokens,
                norm_eps=_NORM_EPS,
                input=input_,
            ),
            network=network,
            source=Source(self.archive.path, "encoder", self.facts.model_class, dict(self.facts.training)),
            notes=self.facts.notes,
        )

    def _token_encoder(self) -> tuple[Network, Tokens, int]:
        longest = self.config.size("max_len", default=128)
        length = self.config.size("seq_len")
        if length > longest:
            raise CheckpointError(
                f"seq_len {length} in the config of {self.archive.path} is above its max_len {longest}"
            )
        # A one-hot vector times the weight is one of its columns, plus the bias: the row of a table.
        vocabulary = self.tensors.columns("embed.weight")
        embed = self._linear("embed", self.width, vocabulary)
        table = embed.weight.values().T.clone(memory_format=torch.contiguous_format)
        if embed.bias is not None:
            table += embed.bias.values()
        positions = self.tensors.take("pos_emb.weight", (longest, self.width)).rows(0, length)
        network = TokenEncoder(Weight("embed", table), positions, self._trunk(length, 2), self._head())
        return network, Tokens(vocabulary, length, longest), length

    def _set_encoder(self) -> tuple[Network, Features, int]:
        embedding = self._linear("embed", self.width, _SET_FEATURES)
        network = SetEncoder(embedding, self._trunk(_SET_SIZE, 2), self._head())
        return network, Features(_SET_SIZE, _SET_FEATURES), _SET_SIZE

    def _vision(self) -> tuple[Network, Image, int]:
        size = self.config.size
        mean, std = NORMALIZATIONS.get(self.facts.task, (None, None))
        image = Image(size("channels"), size("image_size"), size("patch"), mean, std)
        side = -(-image.size // image.patch)
        tokens = 1 + side * side
        kernel = self.tensors.take("patch_embed.proj.weight", (self.width, image.channels, image.patch, image.patch))
        stem = Linear(kernel.reshaped(self.width, -1), self.tensors.take("patch_embed.proj.bias", (self.width,)))
        network = VisionTransformer(
            patch=image.patch,
            stem=stem,
            cls=self.tensors.take("cls", (1, 1, self.width)).reshaped(1, self.width),
            position_table=self.tensors.take("pos_emb", (1, tokens, self.width)).reshaped(tokens, self.width),
            trunk=self._trunk(tokens, 3),
            head=self._head(),
        )
        return network, image, tokens

    def _trunk(self, tokens: int, second: int) -> Trunk:
        """The blocks; ``second`` is the number of the second linear layer in ``mlp``, a list with others in it."""
        blocks = []
        for index in range(self.layers):
            prefix = f"blocks.{index}."
            mlp = MLP(
                gate=None,
                up=self._linear(f"{prefix}mlp.0", self.inner, self.width),
                down=self._linear(f"{prefix}mlp.{second}", self.width, self.inner),
                activation="gelu",
            )
            attention = self._attention(f"{prefix}attn.", tokens)
            blocks.append(Block(self._norm(f"{prefix}ln1"), attention, self._norm(f"{prefix}ln2"), mlp))
        return Trunk(tuple(blocks), self._norm("ln_f"))

    def _attention(self, prefix: str, tokens: int) -> Attention:
        found = self._projections(prefix)
        linears = {name: self._linear(f"{prefix}{name}", self.width, self.width) for name in found}
        match _SHARINGS[found]:
            case Sharing.QKV:
                q, k, v = linears["c_q"], linears["c_k"], linears["c_v"]
            case Sharing.Q_IS_K:
                q, k, v = linears["c_qk"], linears["c_qk"], linears["c_v"]
            case Sharing.K_IS_V:
                q, k, v = linears["c_q"], linears["c_kv"], linears["c_kv"]
            case Sharing.ALL:
                q = k = v = linears["c_qkv"]
            case Sharing.QVV3:
                q, k, v = _folded(linears["c_q1"], linears["c_q2"]), linears["c_v"], linears["c_v"]
        heads = Heads(query=self.heads, kv=self.heads, dim=self.head_dim)
        out = self._linear(f"{prefix}c_proj", self.width, self.width)
        term = self._score_term(prefix, tokens)
        return Attention(q, k, v, out, heads, scale=self.head_dim**-0.5, causal=False, term=term)

    def _projections(self, prefix: str) -> tuple[str, ...]:
        found = tuple(name for name in _PROJECTIONS if f"{prefix}{name}.weight" in self.tensors)
        for names in _SHARINGS:
            if set(names) == set(found):
                return names
        raise CheckpointError(
            f"the attention of {self.archive.path} is of no known variant: '{prefix}' has the projections "
            f"{', '.join(found) or 'none'}; known are {'; '.join(' + '.join(names) for names in _SHARINGS)}"
        )

    def _score_term(self, prefix: str, tokens: int) -> ScoreTerm | None:
        """The position term's two constants, computed in float64 so that folding it changes nothing."""
        name = f"{prefix}pos2d"
        if name not in self.tensors:
            return None
        size, dims = self.tensors.rows(name), self.tensors.rows(f"{prefix}pos_w")
        if size < tokens:
            raise CheckpointError(f"'{name}' in {self.archive.path} is for {size} tokens, and the model has {tokens}")
        encoding = self.tensors.take(name, (size, size, dims)).tensor[:tokens, :tokens].double()
        weight = self.tensors.take(f"{prefix}pos_w", (dims,)).tensor.double()
        offset = self.tensors.take(f"{prefix}pos_b", (1,)).tensor.double()
        bias = (encoding @ weight + offset).float()
        return ScoreTerm(float(weight.sum()), Weight(f"{prefix}pos2d·pos_w+pos_b", bias))

    def _variant(self, network: Network) -> Variant:
        kinds = []
        for index, block in enumerate(network.blocks):
            sharing = _SHARINGS[self._projections(f"blocks.{index}.attn.")]
            kinds.append(Variant(sharing, position_2d=block.attention.term is not None))
        for index, kind in enumerate(kinds):
            if kind != kinds[0]:
                raise CheckpointError(
                    f"layer {index} of {self.archive.path} is {kind}, layer 0 is {kinds[0]}; edgeqkv reads models "
                    f"whose layers agree"
                )
        return kinds[0]

    def _computed(self, input_: Tokens | Features | Image) -> dict[str, tuple[object, ...]]:
        """What else a config may say, and what it says of this model, whose dimensions were read already."""
        match input_:
            case Tokens(vocabulary):
                own = {"vocab_size": vocabulary}
            case Features(length, size):
                own = {"seq_len": length, "max_len": length, "set_size": length, "input_dim": size, "feature_dim": size}
            case Image(channels, size, patch):
                own = {"in_channels": channels, "in_chans": channels, "img_size": size, "patch_size": patch}
        if dims := self.tensors.rows("blocks.0.attn.pos_w"):
            own["pos_dim"] = dims
        else:
            self.config.get("pos_dim")  # of a term that this model does not have
        own |= {"n_classes": self.classes, "num_classes": self.classes, "head_dim": self.head_dim}
        return {
            **BLOCKS,
            **{key: (value,) for key, value in own.items()},
            **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "norm_eps"), (_NORM_EPS,)),
            **dict.fromkeys(("mlp_ratio",), (self.inner / self.width,)),
            **dict.fromkeys(("bias", "use_bias"), ("head.bias" in self.tensors,)),
            **dict.fromkeys(("causal", "is_causal"), (False,)),
            **dict.fromkeys(("pool", "pooling"), ("cls", "token")),
        }

    def _head(self) -> Linear:
        return self._linear("head", self.classes, self.width)

    def _linear(self, name: str, rows: int, columns: int) -> Linear:
        weight = self.tensors.take(f"{name}.weight", (rows, columns))
        biased = f"{name}.bias" in self.tensors
        return Linear(weight, self.tensors.take(f"{name}.bias", (rows,)) if biased else None)

    def _norm(self, name: str) -> Norm:
        scale, bias = (self.tensors.take(f"{name}.{part}", (self.width,)) for part in ("weight", "bias"))
        return Norm("layer", scale, bias, _NORM_EPS)


def _folded(first: Linear, second: Linear) -> Linear:
    """``second(first(x))`` as one linear layer, multiplied in float64 so that only the rounding to float32 is left."""
    a, b = first.weight.tensor.double(), second.weight.tensor.double()
    weight = Weight(f"{second.weight.name}·{first.weight.name}", (b @ a).float())
    bias = torch.zeros(len(b), dtype=torch.float64)
    if first.bias is not None:
        bias += b @ first.bias.tensor.double()
    if second.bias is not None:
        bias += second.bias.tensor.double()
    return Linear(weight, Weight(f"{weight.name}.bias", bias.float()))
