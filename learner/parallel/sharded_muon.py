"""Muon on matrices that are cut over ranks."""

import torch
from torch import nn

from learner.parallel.sharding import copy_into_shards, full_tensor


class ShardedMuon(torch.optim.Muon):
    """torch's Muon, matrix by matrix: gathered, stepped whole, and cut again.

    Left to DTensor, its orthogonalisation in bfloat16 adds in another order for every number of ranks, and that noise
    is as large as the update: after one step weights differed by 0.7 of it. Every rank repeats the whole step,
    at the price of two or three gathers of each matrix.
    """

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            settings = {name: value for name, value in group.items() if name != "params"}
            for p in group["params"]:
                if p.grad is None:
                    continue
                matrix = nn.Parameter(full_tensor(p.detach()).clone())
                matrix.grad = full_tensor(p.grad)
                alone = torch.optim.Muon([matrix], **settings)
                for name, value in self.state[p].items():
                    alone.state[matrix][name] = full_tensor(value)
                alone.step()
                copy_into_shards(p, matrix)
                for name, value in alone.state[matrix].items():
                    copy_into_shards(self.state[p].setdefault(name, torch.zeros_like(p)), value)
