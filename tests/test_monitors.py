"""Monitors on features whose answer is known."""

import pytest
import torch

from mastlib.methods.base import embedding_std
from mastlib.monitors import collapsed, effective_rank


def test_effective_rank_counts_equal_directions():
    q, _ = torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(0)))
    for rank in (1, 3, 20):
        assert effective_rank(q[:, :rank] @ q[:rank]) == pytest.approx(rank, rel=1e-3)


def test_embedding_std_is_one_when_spread_and_zero_when_constant():
    g = torch.Generator().manual_seed(0)
    assert float(embedding_std(torch.randn(4000, 64, generator=g))) == pytest.approx(1, abs=0.02)
    assert float(embedding_std(torch.ones(100, 64))) == pytest.approx(0, abs=1e-6)


def test_collapse_is_called_by_spread_or_by_rank():
    assert collapsed(0.05, 30) and collapsed(0.9, 1.5) and not collapsed(0.5, 12)
