"""Attention in torch, whatever its record asks for: heads in groups, rotation, windows, caps, position terms."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgeqkv.model.layers import Attention, Rope

__all__ = ["attend", "rotated", "turns"]

Tensor = torch.Tensor

_QUERY_BLOCK = 256  # rows of the score matrix made at a time: bounds its memory at long contexts


def turns(rope: Rope, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every pair's angle at positions ``[S]``, ``[S, 1, dims / 2]`` each."""
    angles = positions.float()[:, None, None] * torch.tensor(rope.inverse_frequencies, dtype=torch.float32)
    return angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor


def rotated(x: Tensor, rope: Rope, cos: Tensor, sin: Tensor) -> Tensor:
    """``x [..., S, heads, D]`` with every pair of channels turned, by what `turns` says of where its rows stand."""
    turning, rest = x[..., : rope.dims], x[..., rope.dims :]
    if rope.interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = turning.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((turned, rest), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, attention: Attention, bias: Tensor | None = None) -> Tensor:
    """Mix values for every query, ``[..., S, H·D]``.

    Args:
        q: ``[..., S, H, D]``; its last row stands where the last of keys and values does.
        k, v: ``[..., T, KV, D]``.
        attention: the rules.
        bias: the position term's, ``[S, T]``.
    """
    steps, total = q.shape[-3], k.shape[-3]
    queries, keys, values = (x.transpose(-2, -3) for x in (q, k, v))
    if not attention.causal:
        return _mixed(queries, keys, values, attention, bias).transpose(-2, -3).flatten(-2)
    blocks = []
    for start in range(0, steps, _QUERY_BLOCK):
        stop = min(start + _QUERY_BLOCK, steps)
        rows = torch.arange(total - steps + start, total - steps + stop)[:, None]
        first = 0 if attention.window is None else max(0, total - steps + start - attention.window + 1)
        seen = slice(first, total - steps + stop)
        columns = torch.arange(seen.start, seen.stop)
        mask = columns <= rows
        if attention.window is not None:
            mask &= columns > rows - attention.window
        if bias is not None:
            mask = torch.where(mask, bias[start:stop, seen], -torch.inf)
        blocks.append(_mixed(queries[..., start:stop, :], keys[..., seen, :], values[..., seen, :], attention, mask))
    return torch.cat(blocks, dim=-2).transpose(-2, -3).flatten(-2)


def _mixed(q: Tensor, k: Tensor, v: Tensor, attention: Attention, mask: Tensor | None) -> Tensor:
    """``q [..., H, S, D]``, ``k, v [..., KV, T, D]``; ``mask`` says what is seen, or is added to the scores."""
    scale = attention.scale if attention.term is None else attention.scale * attention.term.scale
    if attention.softcap is None:
        queries, keys, values = (x if x.dim() == 4 else x[None] for x in (q, k, v))
        grouped = attention.heads.query != attention.heads.kv
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=grouped)
        return mixed if q.dim() == 4 else mixed[0]
    group = attention.heads.query // attention.heads.kv
    keys, values = (x.repeat_interleave(group, dim=-3) for x in (k, v))
    scores = (q @ keys.transpose(-1, -2) * scale / attention.softcap).tanh() * attention.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ values
