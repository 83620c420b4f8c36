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
    found = [(trial.config.window.law, trial.config.dmd.student_lr) for trial in trials]
    assert found == [("uniform", 1e-4), ("uniform", 2e-4), ("prefix(1)", 1e-4), ("prefix(1)", 2e-4)]
    assert trials[3].arm == "prefix, dmd.student_lr=0.0002" and trials[3].values == {
        "window": "prefix", "dmd.student_lr": 2e-4,
    }  # fmt: skip


def test_what_is_typed_beats_what_goes_along_with_a_value():
    _, trials = plan(["window=prefix,uniform", "rollout.batch=16", "scan.seeds=[0]"])
    assert [(t.config.rollout.batch, t.config.rollout.windows) for t in trials] == [(16, 1), (16, 8)]


def test_lists_and_nothing_are_values_too():
    _, trials = plan(
        ["scan.over={learner.micro_batch: [null, 2], rollout.curriculum: [[], [[0,24]]]}", "scan.seeds=[0]"]
    )
    found = [(trial.config.learner.micro_batch, trial.config.rollout.curriculum) for trial in trials]
    assert found == [(None, []), (None, [[0, 24]]), (2, []), (2, [[0, 24]])]


def test_with_a_student_given_no_stage_ode_is_run():
    scan, trials = plan(["init=assets/tiny/student_uniform.safetensors", "window=uniform,prefix", "scan.seeds=[0]"])
    assert scan.stages == ["dmd"] and trials[0].config.init.endswith("assets/tiny/student_uniform.safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dmd.lr=1,2"], "Could not override 'dmd.lr'"),
        (["scan.over={dmd.lr: [1e-4]}"], "Could not override 'dmd.lr'"),
        (["scan.nope=1"], "scan.nope"),
        (["window=uniform,nope"], "window=nope is none of beta_early"),
        (["window.law=uniform,gauss(1)"], "window.law=gauss(1): "),
        (["dmd.steps=4,0"], "dmd.steps is 0"),
        (["dmd.steps=4,many"], "dmd.steps"),
        (["window.frames=12,120"], "window.frames=120: longer than rollout.frames"),
        (["scan.over={window: []}"], "scan.over has no values for window"),
        (["scan.over={}"], "nothing is scanned"),
        (["scan.over=3"], "scan.over=3 is no mapping"),
        (["scan.over={window: uniform}"], "str is not a ListConfig"),
        (["window=uniform,uniform"], "has a value of window twice"),
        (["window.law=beta(1,4),beta(1, 4)"], "two trials would share the folder"),
        (["window=uniform,prefix", "scan.over={dmd.steps: [1,2]}"], "window and scan.over are both given"),
        (["window=uniform"], "window is given, and window.law is scanned"),
        (["seed=0,1"], "scan.seeds"),
        (["scan.seeds=[]"], "scan.seeds is []"),
        (["scan.seeds=[1,1]"], "scan.seeds is [1, 1]"),
        (["scan.seeds=[-1]"], "scan.seeds is [-1]"),
        (["ode.steps=1,2"], "ode.steps cannot be scanned"),
        (["run_dir=a,b"], "run_dir cannot be scanned"),
        (["stage=dmd"], "stage=dmd: trials run stage dmd"),
        (["cluster=ray,inline"], "cluster cannot be scanned: trials differ in stage dmd only"),
        (["cluster=nope"], "cluster=nope is none of h100_32"),
        (["cluster.kind=somewhere"], 'cluster.kind is "somewhere"'),
        (["scan.at_once=0"], "scan.at_once is 0"),
        (["scan.keep=0"], "scan.keep is 0.0"),
        (["scan.every=0"], "scan.every is 0"),
        (["scan.retries=-1"], "scan.retries is -1"),
        (["scan.timeout_s=0"], "scan.timeout_s is 0.0"),
        (["scan.along={window.lew: {uniform: []}}"], "scan.along names window.lew"),
        (["scan.along={window.law: {uniform: [rollout.nope=1]}}"], "rollout.nope"),
        (["debug.rollout_only=true"], "debug.rollout_only"),
        (["nonsense"], '"nonsense" cannot be read'),
        (["window=a,[b"], "window=a,[b"),
    ],
)
def test_a_scan_that_cannot_be_is_refused_in_one_line_that_names_the_key(arguments, said):
    with pytest.raises(ValueError) as caught:
        plan(arguments)
    assert said in str(caught.value) and "\n" not in str(caught.value)
