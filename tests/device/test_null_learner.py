"""The learner runs on a GPU at Wan's sizes: no device, type, wait or process group is wrong, as faults planted prove.

A GPU whose kernels do nothing runs torch's own CUDA path: what is not shown is any number that a kernel computes.
"""

import json

import pytest

from tests.device.faults import FAULTS, IN_A_LOSS, OF_SHARES
from tests.device.null_gpu import build, peak_bytes, planned_bytes, run_scenarios

SMALL = {"layers": 2, "teacher_layers": 2}
SMALLEST = {"layers": 1, "teacher_layers": 1}
RUNS = [
    {"what": "dmd", "ranks": 8, "starts": [300]},
    {"what": "dmd", "ranks": 1, "starts": [9], "keys": ["learner.checkpoint_activations=false", "dmd.batch_size=1"]},
    {"what": "ode", "ranks": 8, "keys": ["ode.batch_size=8", "learner.keep_attention=true"]},
    {"what": "grpo", "ranks": 8, "keys": ["grpo.groups=8", "grpo.minibatches=1", "group.members=2"]},
    {"what": "rollout", "ranks": 1, "starts": [9]},
    {"what": "fork", "ranks": 1, "starts": [21], "keys": ["grpo.groups=8", "group.members=2"]},
    {"what": "text", "ranks": 1},
]
MIXED = {
    "what": "dmd", "ranks": 4, "starts": [300, 3], "compiled": "eager",
    "keys": ["window.frames=6", "window.burn_in_frames=3", "student.attention_frames=9",
             "learner.keep_attention=true"],
}  # fmt: skip
"""Two micro-batches, of an old and of a young window: the second is traced while gradients of the first wait."""
TRACED = {
    "what": "ode", "ranks": 8, "compiled": "aot_eager",
    "keys": ["ode.batch_size=8", "student.horizon_frames=6", "student.attention_frames=6", "window.frames=6"],
}  # fmt: skip
READ_IN_A_GRAPH = {
    "what": "ode", "ranks": 8, "keys": ["ode.batch_size=8"], "compiled": "eager", "fault": "read by the host"
}  # fmt: skip
OLD_DRIVER = {"what": "old_driver", "ranks": 1}
FALLS = {"what": "ode", "ranks": 8, "keys": ["ode.batch_size=8"], "falls_after": 500}
COMPILED = {
    "dmd": ({"what": "dmd", "ranks": 4, "starts": [300, 9]}, 11),
    "dmd without shards": ({"what": "dmd", "ranks": 1, "keys": ["dmd.batch_size=1", "learner.dtype=float32"]}, 7),
    "ode": ({"what": "ode", "ranks": 8, "keys": ["ode.batch_size=8"]}, 2),
    "grpo": ({"what": "grpo", "ranks": 8, "keys": ["grpo.groups=8", "grpo.minibatches=1", "group.members=2"]}, 7),
    "rollout": ({"what": "rollout", "ranks": 1, "starts": [9]}, 7),
    "fork": ({"what": "fork", "ranks": 1, "starts": [21], "keys": ["grpo.groups=8"]}, 14),
}
"""Scenarios, and their graphs."""
SPLIT = {"what": "dmd", "ranks": 4, "keys": ["cluster.sequence_ranks=2", "dmd.batch_size=2"]}
"""Ranks 0 and 1 share the tokens of a window, 0 and 2 the gathers of a batch: both groups have two ranks."""
OTHERS = [SPLIT, MIXED, TRACED, READ_IN_A_GRAPH, FALLS, OLD_DRIVER]
CAUGHT = {
    "constant on the CPU": ("Misplaced", "cpu"),
    "read by the host": ("HostWaits", "_local_scalar_dense"),
    IN_A_LOSS: ("HostWaits", "_local_scalar_dense"),
    "computed in float64": ("Misplaced", "float64"),
    "only on the CPU": ("NotImplementedError", "only_on_cpu"),
    "gathered in another group": ("Misplaced", "[0]"),
    OF_SHARES: ("Misplaced", "[0, 1], not [0, 2]"),
}


def name_of(run):
    return f"{run['what']} on {run['ranks']}"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return build(tmp_path_factory.mktemp("null_gpu"))


@pytest.fixture(scope="module")
def results(libraries):
    """Run all in one process: starting torch takes longer than a scenario."""
    ode = {"what": "ode", "ranks": 8, "keys": ["ode.batch_size=8"]}
    faults = [(SPLIT if fault == OF_SHARES else ode) | {"fault": fault} for fault in CAUGHT]
    scenarios = [one | SMALL for one in RUNS] + [SMALLEST | one for one in (*faults, *OTHERS)]
    names = [json.dumps(one) for one in RUNS] + list(CAUGHT) + [json.dumps(one) for one in OTHERS]
    return dict(zip(names, run_scenarios(libraries, scenarios), strict=True))


@pytest.mark.parametrize("run", RUNS, ids=name_of)
def test_an_update_meets_no_wrong_device_type_wait_or_group(results, run):
    result = results[json.dumps(run)]
    assert "error" not in result, result
    assert result["operations"] > (100 if run["what"] == "text" else 1000)


@pytest.mark.parametrize("run", [run for run in RUNS if run["what"] != "text"], ids=name_of)
def test_the_dry_run_is_within_a_tenth_of_the_peak(results, run):
    result = results[json.dumps(run)]
    assert planned_bytes(result) == pytest.approx(peak_bytes(result), rel=0.1)


@pytest.mark.parametrize("run", [run for run in RUNS if run["what"] == "dmd"], ids=name_of)
def test_a_checkpoint_takes_no_memory_of_the_gpu(results, run):
    result = results[json.dumps(run)]
    assert result["peaks"]["checkpoint"] == pytest.approx(result["held"]["publish"], rel=1e-3)


@pytest.mark.parametrize("run", [RUNS[0], MIXED], ids=["one window", "two micro-batches"])
@pytest.mark.parametrize(("part", "values"), [("critic", 2), ("student", 3)])
def test_an_update_waits_for_the_values_that_it_reads_alone(results, run, part, values):
    # The longest history of all ranks, loss with gradient norm, and the student's measures by window.
    waits, pageable, _ = results[json.dumps(run)]["waits"][part]
    assert waits == values and pageable < values


@pytest.mark.parametrize("run", [run for run in RUNS if run["what"] == "dmd"], ids=name_of)
def test_weights_are_published_with_one_wait_into_memory_that_was_pinned_before(results, run):
    assert results[json.dumps(run)]["waits"]["publish"] == [1, 0, 0]


@pytest.mark.parametrize("run", [run for run in RUNS if run["what"] == "dmd"], ids=name_of)
def test_checkpoints_pin_the_bytes_of_their_copies_once(results, run):
    result = results[json.dumps(run)]
    (*_, first), (*_, second) = (result["waits"][part] for part in ("checkpoint", "next checkpoint"))
    assert first == pytest.approx(result["held"]["copies"], rel=1e-3) and second == 0


def test_collectives_of_shares_tokens_and_weights_are_each_among_their_own_ranks(results):
    result = results[json.dumps(SPLIT)]
    assert "error" not in result and result["operations"] > 1000, result


@pytest.mark.parametrize("fault", CAUGHT)
def test_a_planted_fault_is_caught(results, fault):
    error, word = CAUGHT[fault]
    assert results[fault]["error"] == error and word in results[fault]["text"], results[fault]


@pytest.mark.parametrize(("run", "graphs"), [(MIXED, 7), (TRACED, 1)], ids=["mixed", "traced"])
def test_compiled_blocks_are_whole_graphs_in_forward_and_backward(results, run, graphs):
    result = results[json.dumps(run)]
    assert (result.get("graphs"), result.get("breaks")) == (graphs, 0), result


def test_a_read_by_the_host_breaks_a_graph(results):
    result = results[json.dumps(READ_IN_A_GRAPH)]
    assert result["breaks"] > 0, result


def test_a_gpu_that_falls_off_raises_an_error_that_is_known_as_its_own(results):
    result = results[json.dumps(FALLS)]
    assert result["error"] == "AcceleratorError" and "ECC" in result["gpu_fault"], result


def test_the_drivers_version_is_read_from_its_library(results):
    assert "error" not in results[json.dumps(OLD_DRIVER)], results[json.dumps(OLD_DRIVER)]


def test_every_fault_is_tried():
    assert CAUGHT.keys() == {*FAULTS, IN_A_LOSS, OF_SHARES}


@pytest.mark.proof
@pytest.mark.parametrize("run", RUNS, ids=name_of)
def test_nothing_is_wrong_at_full_depth_either(libraries, run):
    (result,) = run_scenarios(libraries, [run], gigabytes=1000)
    assert "error" not in result, result


@pytest.mark.proof
@pytest.mark.parametrize("name", COMPILED)
def test_blocks_compile_without_a_break_at_full_depth(libraries, name):
    run, graphs = COMPILED[name]
    (result,) = run_scenarios(libraries, [run | {"compiled": "aot_eager"}], gigabytes=1000)
    assert (result.get("graphs"), result.get("breaks")) == (graphs, 0), result
