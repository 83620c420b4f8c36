import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.optical_flow import raft_small

from models.errors import ConfigError
from rewards.flow.raft import RaftFlow
from rewards.registry import make_flow_engine
from rewards.reward_config import RewardConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("size", "wanted"), [("large", "raft_large_C_T_SKHT_V2-ff5fadd5.pth"), ("small", "raft_small_C_T_V2-01064c6d.pth")]
)
def test_missing_weights_are_named_with_the_key(size, wanted):
    with pytest.raises(ConfigError, match=f"reward.raft_weights=nowhere.pth: .*{wanted}"):
        make_flow_engine(RewardConfig(flow="raft", raft_size=size, raft_weights="nowhere.pth"))


def test_weights_of_the_other_network_and_files_that_are_none_are_refused(weights, tmp_path):
    with pytest.raises(ConfigError, match=r"reward.raft_weights=.*lacks .*raft_large"):
        RaftFlow(weights, "large", 1, CPU)
    for name, content in (("broken.pth", b"not weights"), ("text.pth", b"hi"), ("broken.safetensors", b"not weights")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            RaftFlow(str(tmp_path / name), "small", 1, CPU)
        assert (caught.value.key, caught.value.value) == ("reward.raft_weights", str(tmp_path / name))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Surprise:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"weight": Surprise()}, tmp_path / "surprise.pth")
    with pytest.raises(ConfigError, match=r"UnpicklingError"):
        RaftFlow(str(tmp_path / "surprise.pth"), "small", 1, CPU)


def test_frames_of_any_size_give_flow_of_the_enlarged_frame_alike_from_both_kinds_of_file(weights, tmp_path):
    stored = torch.load(weights, weights_only=True)
    save_file(stored, tmp_path / "raft_small.safetensors")
    pixels = torch.rand(3, 3, 20, 36, generator=torch.Generator().manual_seed(0))
    flow = RaftFlow(weights, "small", 2, CPU)(pixels)
    same = RaftFlow(str(tmp_path / "raft_small.safetensors"), "small", 2, CPU)(pixels)
    assert flow.forward.shape == flow.backward.shape == (2, 2, 40, 72)
    assert torch.equal(flow.forward, same.forward) and torch.equal(flow.backward, same.backward)
    assert RaftFlow(weights, "small", 1, CPU)(pixels[:1]).forward.shape == (0, 2, 20, 36)


def test_a_device_is_opened_by_the_first_frames_and_not_before(weights):
    flow = RaftFlow(weights, "small", 1, torch.device("meta"))
    assert {p.device.type for p in flow._network.parameters()} == {"cpu"}
    with pytest.raises(NotImplementedError):
        flow(torch.rand(2, 3, 20, 36))
