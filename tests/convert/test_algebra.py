"""The algebra of conversion: what is best is best, and a change of basis changes nothing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqkv.convert.gauge import even_rotation, gauge
from edgeqkv.convert.grouping import grouped
from edgeqkv.convert.subspace import Projection, best_subspace, powers, restored

Tensor = torch.Tensor


def positive(generator: torch.Generator, size: int, rank: int | None = None) -> Tensor:
    root = torch.randn(size, rank or 2 * size, dtype=torch.float64, generator=generator)
    return root @ root.T


@st.composite
def projections(draw: st.DrawFn, *, alike: bool) -> list[Projection]:
    """Two to five, of inputs of 10 channels; ``alike``: of the same inputs up to a factor."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    dim = draw(st.integers(1, 4))
    inputs = positive(generator, 10)
    return [
        Projection(
            torch.randn(dim, 10, dtype=torch.float64, generator=generator),
            inputs * draw(st.floats(0.1, 10)) if alike else positive(generator, 10),
            positive(generator, dim),
        )
        for _ in range(draw(st.integers(2, 5)))
    ]


def lost(parts: list[Projection], shared: Tensor) -> float:
    return sum(part.loss(restored(part, shared) @ shared) for part in parts)


@settings(deadline=None)
@given(projections(alike=True), st.integers(0, 9999))
def test_no_other_subspace_loses_less(parts: list[Projection], seed: int) -> None:
    size = len(parts[0].weight)
    best = best_subspace(parts, size)
    generator = torch.Generator().manual_seed(seed)
    near = best + 0.1 * best.std() * torch.randn(best.shape, dtype=torch.float64, generator=generator)
    far = torch.randn(best.shape, dtype=torch.float64, generator=generator)
    least = lost(parts, best)
    assert least <= lost(parts, near) + 1e-9
    assert least <= lost(parts, far) + 1e-9
    assert least <= sum(part.energy for part in parts)


@settings(deadline=None)
@given(projections(alike=False), st.integers(0, 9999))
def test_no_other_map_restores_better(parts: list[Projection], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(parts[0].weight.shape, dtype=torch.float64, generator=generator)
    for part in parts:
        best = restored(part, shared)
        other = best + 0.01 * torch.randn(best.shape, dtype=torch.float64, generator=generator)
        assert part.loss(best @ shared) <= part.loss(other @ shared) + 1e-9


@settings(deadline=None)
@given(projections(alike=False), st.integers(0, 9999))
def test_what_shares_a_space_is_restored_whole(parts: list[Projection], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = len(parts[0].weight)
    space = torch.randn(size, 10, dtype=torch.float64, generator=generator)
    within = [
        Projection(torch.randn(size, size, dtype=torch.float64, generator=generator) @ space, p.inputs, p.outputs)
        for p in parts
    ]
    shared = best_subspace(within, size)
    assert lost(within, shared) <= 1e-10 * sum(part.energy for part in within)


@settings(deadline=None)
@given(st.integers(1, 24), st.integers(0, 9999))
def test_the_gauge_makes_channels_alike_and_errors_cheap(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    covariance, cost = positive(generator, size), positive(generator, size)
    basis = gauge(covariance, cost)
    varies = (basis @ covariance @ basis.T).diagonal()
    assert torch.isclose(varies.mean(), torch.tensor(1.0, dtype=torch.float64))
    if size & (size - 1) == 0:
        torch.testing.assert_close(varies, torch.ones_like(varies), atol=1e-6, rtol=0)
    back = torch.linalg.inv(basis)
    plain = powers(covariance, 0.5)[0]  # the way back from the plain basis
    assert (back.T @ cost @ back).trace() <= (plain.T @ cost @ plain).trace() * (1 + 1e-9)


@given(st.integers(1, 130))
def test_the_rotation_is_one_and_even(size: int) -> None:
    rotation = even_rotation(size)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(size, dtype=torch.float64))
    # √2 is what the Hartley transform of an odd factor adds
    assert rotation.abs().max() <= (2 / size) ** 0.5 + 1e-9


@given(st.sampled_from([(8, 2), (8, 4), (6, 3), (12, 2), (4, 4), (6, 1)]), st.randoms(use_true_random=False))
def test_heads_that_belong_together_are_found(shape: tuple[int, int], random: object) -> None:
    heads, groups = shape
    owner = [head % groups for head in range(heads)]
    random.shuffle(owner)  # type: ignore[attr-defined]
    found = grouped(heads, groups, lambda members: float(len({owner[head] for head in members}) - 1))
    assert sorted(head for members in found for head in members) == list(range(heads))
    assert {len(members) for members in found} == {heads // groups}
    if groups > 1:
        assert all(len({owner[head] for head in members}) == 1 for members in found)
