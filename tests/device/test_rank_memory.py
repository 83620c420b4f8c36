"""The dry run's bytes of a rank and of an actor are those of torch's allocator at full size, within a tenth."""

import pytest

from tests.device.null_gpu import build, peak_bytes, planned_bytes, run_scenarios

_FOREIGN = ["teacher_model=wan_14b", "base=x"]
WITHOUT_GUARD = {"guarded": False}
CONFIGURATIONS = {
    "eight ranks": {"what": "dmd", "ranks": 8},
    "one rank of two micro-batches": {"what": "dmd", "ranks": 1, "keys": ["dmd.batch_size=2"]},
    "four ranks of two micro-batches, one masked": {"what": "dmd", "ranks": 4, "starts": [300, 9]},
    "two windows together, one masked": {
        "what": "dmd", "ranks": 4, "keys": ["learner.micro_batch=2"], "starts": [300, 9],
    },
    "a teacher of 14B": {"what": "dmd", "ranks": 8, "keys": _FOREIGN},
    "a teacher of 14B, offloaded": {"what": "dmd", "ranks": 8, "keys": [*_FOREIGN, "learner.teacher_offload=true"]},
    "a teacher of 14B, windows split over four ranks": {
        "what": "dmd", "ranks": 8, "keys": [*_FOREIGN, "cluster.sequence_ranks=4"],
    },
    "horizons of 84 frames, split over four ranks": {
        "what": "dmd", "ranks": 8,
        "keys": ["student.horizon_frames=84", "window.frames=84", "rollout.frames=420", "cluster.sequence_ranks=4"],
    },
    "LoRA": {"what": "dmd", "ranks": 8, "keys": ["learner.lora_rank=64"]},
    "LoRA under 14B on one rank": {
        "what": "dmd", "ranks": 1, "keys": [*_FOREIGN, "learner.lora_rank=64", "dmd.batch_size=1"],
    },
    "without checkpointing": {"what": "dmd", "ranks": 8, "keys": ["learner.checkpoint_activations=false"]},
    "with attention kept": {"what": "dmd", "ranks": 8, "keys": ["learner.keep_attention=true"]},
    "gradient through the context": {"what": "dmd", "ranks": 8, "keys": ["dmd.context_gradient=true"]},
    "float32": {"what": "dmd", "ranks": 8, "keys": ["learner.dtype=float32"]},
    "stage ode": {"what": "ode", "ranks": 8, "keys": ["ode.batch_size=16"]},
    "stage grpo": {"what": "grpo", "ranks": 8, "keys": ["grpo.groups=8", "grpo.minibatches=1"]},
    "an actor": {"what": "rollout", "ranks": 1, "starts": [24]},
    "an actor of groups": {"what": "fork", "ranks": 1, "starts": [24], "keys": ["grpo.groups=8"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return build(tmp_path_factory.mktemp("null_gpu"))


@pytest.mark.proof
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_dry_run_is_within_a_tenth_of_the_peak_at_full_depth(libraries, name):
    (result,) = run_scenarios(libraries, [CONFIGURATIONS[name] | WITHOUT_GUARD], gigabytes=1000)
    assert "error" not in result, result
    print(f"{name}: {peak_bytes(result) / 1e9:.2f} GB held, {planned_bytes(result) / 1e9:.2f} GB in the dry run")
    assert planned_bytes(result) == pytest.approx(peak_bytes(result), rel=0.1)


@pytest.mark.proof
def test_without_checkpointing_a_card_of_80_gb_is_too_small(libraries):
    (result,) = run_scenarios(libraries, [CONFIGURATIONS["without checkpointing"] | WITHOUT_GUARD])
    assert result["error"] == "OutOfMemoryError", result


@pytest.mark.proof
def test_a_round_of_stage_grpo_fits_a_card_of_80_gb(libraries):
    """The preset's own round on eight ranks, one group of eight each, and the actor of a group."""
    rank = {"what": "grpo", "ranks": 8}
    actor = {"what": "fork", "ranks": 1, "starts": [24]}
    for result in run_scenarios(libraries, [rank | WITHOUT_GUARD, actor | WITHOUT_GUARD]):
        assert "error" not in result, result
        print(f"{peak_bytes(result) / 1e9:.2f} GB held, {planned_bytes(result) / 1e9:.2f} GB in the dry run")
        assert peak_bytes(result) < 75e9
        assert planned_bytes(result) == pytest.approx(peak_bytes(result), rel=0.1)
