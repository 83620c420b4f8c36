"""What may be scanned, and what is answered when it cannot be: before a folder is made or Ray starts."""

import pytest

from settings.scan_arguments import plan


def laws(trials):
    return [(trial.arm, trial.config.window.law, trial.config.seed) for trial in trials]


def test_without_arguments_the_ablation_of_self_forcing_plus_plus_is_planned_on_three_seeds():
    scan, trials = plan([])
    arms = ["prefix(1)", "prefix(2)", "beta(1, 4)", "beta(1, 2)", "uniform"]
    assert laws(trials) == [(law, law, seed) for seed in (0, 1, 2) for law in arms]
    assert scan.stages == ["ode"] and {tuple(trial.config.stages) for trial in trials} == {("dmd",)}
    assert len({trial.config.run_dir for trial in trials}) == 15
    assert {trial.config.init for trial in trials} == {f"{scan.run_dir}/ode/student.safetensors"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["window=uniform,beta_early,prefix", "scan.seeds=[3]"],
        ["window.law=uniform,beta(1, 4),prefix(1)", "scan.seeds=[3]"],
        ["scan.over={window.law: [uniform, beta(1, 4), prefix(1)]}", "scan.seeds=[3]"],
    ],
)
def test_choices_values_and_scan_over_ask_for_the_same_trials(arguments):
    _, trials = plan(arguments)
    assert [law for _, law, _ in laws(trials)] == ["uniform", "beta(1, 4)", "prefix(1)"]
    assert [(t.config.rollout.batch, t.config.rollout.windows) for t in trials] == [(8, 8), (8, 8), (32, 1)]


@pytest.mark.parametrize(
    ("arguments", "kind", "ranks"),
    [(["preset=smoke"], "inline", 1), (["cluster.kind=ray"], "ray", 1), (["cluster=h100_8"], "ray", 2)],
)
def test_a_trial_is_one_process_unless_a_cluster_is_asked_for(arguments, kind, ranks):
    scan, (trial,) = plan([*arguments, "scan.over={window: [uniform]}", "scan.seeds=[0]"])
    for config in (scan, trial.config):
        assert (config.cluster.kind, config.cluster.learner_ranks) == (kind, ranks)


def test_several_keys_are_combined_each_value_with_each():
    _, trials = plan(["scan.over={window: [uniform, prefix], dmd.student_lr: [1e-4, 2e-4]}", "scan.seeds=[0]"])
    found = [(trial.config.window.law, trial.config.dmd.optimizer.lr) for trial in trials]
    assert found == [("uniform", 1e-4), ("uniform", 2e-4), ("prefix(1)", 1e-4), ("prefix(1)", 2e-4)]
    assert trials[3].arm == "prefix, dmd.student_lr=0.0002" and trials[3].values == {
        "window": "prefix", "dmd.student_lr": 2e-4,
    }  # fmt: skip


def test_what_is_typed_beats_what_goes_along_with_a_value():
    _, trials = plan(["window=prefix,uniform", "rollout.batch=16", "scan.seeds=[0]"])
    assert [(t.config.rollout.batch, t.config.rollout.windows) for t in trials] == [(16, 1), (16, 8)]


def test_a_scan_takes_null_for_the_student_that_it_makes_itself():
    _, (trial,) = plan(["init=null", "scan.over={window: [uniform]}", "scan.seeds=[0]"])
    assert trial.config.init.endswith("ode/student.safetensors")


def test_lists_and_nothing_are_values_too():
    _, trials = plan(
        ["scan.over={learner.micro_batch: [null, 2], rollout.curriculum: [[], [[0,24]]]}", "scan.seeds=[0]"]
    )
    found = [(trial.config.learner.micro_batch, trial.config.rollout.curriculum) for trial in trials]
    assert found == [(None, []), (None, [[0, 24]]), (2, []), (2, [[0, 24]])]


def test_with_a_student_given_no_stage_ode_is_run():
    scan, trials = plan(["init=assets/tiny/student_uniform.safetensors", "window=uniform,prefix", "scan.seeds=[0]"])
    assert scan.stages == ["dmd"] and trials[0].config.init.endswith("assets/tiny/student_uniform.safetensors")


@pytest.mark.parametrize("name", ["a,b", "a=b", "run (1)", "#1", "a@b", "50%"])
def test_a_path_with_a_comma_is_one_path_and_no_scan(name, tmp_path):
    (tmp_path / "student.safetensors").write_text("")
    arguments = [f"run_dir={tmp_path}/{name}", f"init={tmp_path}/{name}.safetensors", "window=uniform,prefix"]
    scan, trials = plan([*arguments, "scan.seeds=[0]"])
    assert scan.run_dir == f"{tmp_path}/{name}" and len(trials) == 2
    assert {trial.config.init for trial in trials} == {f"{tmp_path}/{name}.safetensors"}


def test_several_students_to_start_from_are_scanned_by_scan_over():
    _, trials = plan(["scan.over={init: [/a.safetensors, '/b,c.safetensors']}", "scan.seeds=[0]"])
    assert [trial.config.init for trial in trials] == ["/a.safetensors", "/b,c.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["dmd.lr=1,2"], "dmd.lr"),
        (["scan.over={dmd.lr: [1e-4]}"], "dmd.lr"),
        (["scan.nope=1"], "scan.nope"),
        (["window=uniform,nope"], "window"),
        (["window.law=uniform,gauss(1)"], "window.law"),
        (["dmd.steps=4,0"], "dmd.steps"),
        (["dmd.steps=4,many"], "dmd.steps"),
        (["window.frames=12,120"], "window.frames"),
        (["scan.over={window: []}"], "window"),
        (["scan.over={}"], "scan.over"),
        (["scan.over=3"], "scan.over"),
        (["scan.over={window: uniform}"], "scan.over"),
        (["window=uniform,uniform"], "window"),
        (["window.law=beta(1,4),beta(1, 4)"], "scan.over"),
        (["window=uniform,prefix", "scan.over={dmd.steps: [1,2]}"], "window"),
        (["window=uniform"], "window"),
        (["window=uniform,prefix", "window=uniform,prefix_2"], "window"),
        (["seed=0,1"], "seed"),
        (["scan.seeds=[]"], "scan.seeds"),
        (["scan.seeds=[1,1]"], "scan.seeds"),
        (["scan.seeds=[-1]"], "scan.seeds"),
        (["ode.steps=1,2"], "ode.steps"),
        (["stage=dmd"], "stage"),
        (["cluster=ray,inline"], "cluster"),
        (["cluster=nope"], "cluster"),
        (["cluster.kind=somewhere"], "cluster.kind"),
        (["scan.at_once=0"], "scan.at_once"),
        (["scan.keep=0"], "scan.keep"),
        (["scan.every=0"], "scan.every"),
        (["scan.retries=-1"], "scan.retries"),
        (["scan.timeout_s=0"], "scan.timeout_s"),
        (["scan.along={window.lew: {uniform: []}}"], "window.lew"),
        (["scan.along={window.law: {uniform: ['rollout.nope=1']}}"], "rollout.nope"),
        (["init=x", "debug.rollout_only=true"], "debug.rollout_only"),
        (["debug.rollout_only=true"], "debug.rollout_only"),
        (["debug.windows=x"], "debug.windows"),
        (["nonsense"], "nonsense"),
        (["window=a,[b"], "window"),
    ],
)
def test_a_scan_that_cannot_be_names_its_key_in_one_line(arguments, key):
    with pytest.raises(ValueError) as caught:
        plan(arguments)
    assert key in getattr(caught.value, "key", str(caught.value)) and "\n" not in str(caught.value)
