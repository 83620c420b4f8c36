"""The flow engine that the configuration names."""

import torch

from rewards.flow.optical_flow import DisFlow, FlowEngine
from rewards.reward_config import RewardConfig


def flow_engine(config: RewardConfig) -> FlowEngine:
    """DIS on the CPU, or RAFT on the GPU where there is one. Raises ValueError where RAFT's weights are not at hand."""
    if config.flow == "dis":
        return DisFlow(config.upsample, config.finest_scale)
    from rewards.flow.raft import RaftFlow  # torchvision takes a second to import

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return RaftFlow(config.raft_weights, config.raft_size, config.upsample, device)
