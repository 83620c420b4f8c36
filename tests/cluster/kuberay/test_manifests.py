"""The KubeRay manifest, its image and the Slurm script: their fields, and that they say what the presets say."""

import re
import subprocess

import pytest
import yaml

import settings
from tests.fakes.kuberay_fields import CLAIM, RAY_JOB, faults

KUBERAY = settings.ROOT / "cluster/kuberay"
SLURM = settings.ROOT / "cluster/slurm/longtake.sbatch"


@pytest.fixture
def documents():
    return list(yaml.safe_load_all((KUBERAY / "rayjob.yaml").read_text()))


@pytest.fixture
def job(documents):
    return documents[1]["spec"]


@pytest.fixture
def groups(job):
    return {group["groupName"]: group for group in job["rayClusterSpec"]["workerGroupSpecs"]}


@pytest.fixture
def config(job):
    """The configuration that the entry point of the manifest asks for."""
    return settings.load(job["entrypoint"].split()[2:])


def learner_pod(job):
    return job["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]


def container(group):
    (only,) = group["template"]["spec"]["containers"]
    return only


def test_every_field_is_one_of_the_published_ones_and_of_its_type(documents):
    claim, ray_job = documents
    assert faults(claim, CLAIM, "claim") == [] and faults(ray_job, RAY_JOB, "job") == []


@pytest.mark.parametrize(
    ("break_it", "facts"),
    [
        (lambda job: job.update(backoffLimits=3), "job.spec:backoffLimits"),
        (lambda job: job.update(backoffLimit="3"), "job.spec.backoffLimit:'3':int"),
        (lambda job: job["rayClusterSpec"]["authOptions"].update(mode="none"), "mode:none"),
        (
            lambda job: job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            "num-cpus:0:str",
        ),
        (lambda job: job["rayClusterSpec"].pop("headGroupSpec"), "job.spec.rayClusterSpec:headGroupSpec"),
        (lambda job: job["rayClusterSpec"]["workerGroupSpecs"][2].pop("maxReplicas"), "Specs[2]:maxReplicas"),
        (lambda job: learner_pod(job).update(fsGroup=100), "template.spec:fsGroup"),
        (lambda job: learner_pod(job)["securityContext"].update(fsGroup="100"), "fsGroup:'100':int"),
        (lambda job: learner_pod(job)["containers"][0].pop("name"), "containers[0]:name"),
    ],
)
def test_the_table_finds_what_kuberay_would_refuse(documents, break_it, facts):
    break_it(documents[1]["spec"])
    found = faults(documents[1], RAY_JOB, "job")
    assert any(all(fact in fault for fact in facts.split(":")) for fault in found), found


def test_the_learner_group_is_exactly_what_the_preset_needs_and_never_changes(groups, config):
    learner, cluster = groups["learner"], config.cluster
    assert learner["replicas"] == learner["minReplicas"] == learner["maxReplicas"]
    assert learner["replicas"] * cluster.node_gpus == cluster.learner_ranks * cluster.rank_gpus


def test_rollout_groups_hold_the_first_actors_without_spot_and_the_whole_pool_with_it(groups, config):
    stays, spot, cluster = groups["rollout-on-demand"], groups["rollout-spot"], config.cluster
    assert stays["minReplicas"] * cluster.node_gpus >= cluster.first_actors
    assert spot["replicas"] == spot["minReplicas"] == 0
    assert (stays["maxReplicas"] + spot["maxReplicas"]) * cluster.node_gpus == cluster.rollout_actors
    assert sum(group["maxReplicas"] for group in groups.values()) * cluster.node_gpus == cluster.gpus


def test_nodes_carry_the_labels_that_the_preset_looks_for(groups, config):
    cluster = config.cluster
    assert cluster.learner_labels.items() <= groups["learner"]["labels"].items()
    for name in ("rollout-on-demand", "rollout-spot"):
        assert cluster.rollout_labels.items() <= groups[name]["labels"].items()
    preferred = {name: cluster.rollout_prefers.items() <= group["labels"].items() for name, group in groups.items()}
    assert preferred == {"learner": False, "rollout-on-demand": False, "rollout-spot": True}
    for group in groups.values():
        assert container(group)["resources"]["limits"]["nvidia.com/gpu"] == str(cluster.node_gpus)


def admits(affinity, labels):
    """Whether a pod may be on a node with these labels, as Kubernetes reads `In` and `NotIn`."""
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return all(
        (labels.get(expression["key"]) in expression["values"]) == (expression["operator"] == "In")
        for expression in term["matchExpressions"]
    )


@pytest.mark.parametrize(
    "spot",
    [
        {"cloud.google.com/gke-spot": "true"},
        {"eks.amazonaws.com/capacityType": "SPOT"},
        {"karpenter.sh/capacity-type": "spot"},
    ],
)
def test_what_must_stay_is_on_no_cloud_s_spot_nodes_and_is_not_moved(job, groups, spot):
    ordinary = {"eks.amazonaws.com/capacityType": "ON_DEMAND", "karpenter.sh/capacity-type": "on-demand"}
    for group in (job["rayClusterSpec"]["headGroupSpec"], groups["learner"], groups["rollout-on-demand"]):
        affinity = group["template"]["spec"]["affinity"]
        assert admits(affinity, {}) and admits(affinity, ordinary) and not admits(affinity, ordinary | spot)
        annotations = group["template"]["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert (
        groups["rollout-spot"]["template"]["spec"]["affinity"] == {}
        and "metadata" not in groups["rollout-spot"]["template"]
    )


def test_ray_is_told_of_no_other_gpus_than_the_pod_has(job, groups):
    head = job["rayClusterSpec"]["headGroupSpec"]
    for group in (head, *groups.values()):
        held = container(group)["resources"]
        assert held["requests"] == held["limits"], "one class of service: Guaranteed"
        assert "num-gpus" not in group["rayStartParams"] and "GPU" not in group.get("resources", {})
        assert ("nvidia.com/gpu" in held["limits"]) == (group is not head)


def test_the_image_s_user_may_write_into_the_shared_folder(job, groups):
    assert "--chown=ray:users" in (KUBERAY / "Dockerfile").read_text()  # 1000:100 in Ray's images
    for group in (job["rayClusterSpec"]["headGroupSpec"], *groups.values()):
        assert group["template"]["spec"]["securityContext"]["fsGroup"] == 100


def test_only_spot_pods_may_be_on_spot_nodes(groups):
    for name, group in groups.items():
        keys = {toleration["key"] for toleration in group["template"]["spec"]["tolerations"]}
        assert any("spot" in key for key in keys) == (name == "rollout-spot")
        assert ("nodeSelector" in group["template"]["spec"]) == (name == "rollout-spot")


def test_a_node_has_time_to_drain_before_its_pod_is_killed(groups):
    for group in groups.values():
        (drain,) = (int(e["value"]) for e in container(group)["env"] if "DRAIN_TIMEOUT" in e["name"])
        assert 30 < drain < group["template"]["spec"]["terminationGracePeriodSeconds"] - 10
        said = container(group)["lifecycle"]["preStop"]["exec"]["command"]
        assert subprocess.run(["bash", "-n", "-c", said[2]]).returncode == 0


def test_every_pod_mounts_the_shared_folder_that_run_and_teacher_lie_in(documents, job, groups, config):
    claim = documents[0]["metadata"]["name"]
    for group in (job["rayClusterSpec"]["headGroupSpec"], *groups.values()):
        spec = group["template"]["spec"]
        claims = [
            volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if volume["name"] == "shared"
        ]
        assert claims == [claim]
        (mount,) = (m["mountPath"] for m in container(group)["volumeMounts"] if m["name"] == "shared")
        for path in (config.run_dir, config.teacher, config.prompts, config.text_cache):
            assert path.startswith(f"{mount}/")


def test_the_object_store_of_rollout_and_head_pods_is_memory_and_fits_in_the_pod(job, groups):
    for group in (job["rayClusterSpec"]["headGroupSpec"], *groups.values()):
        (shm,) = (v["emptyDir"] for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
        size, memory = shm["sizeLimit"], container(group)["resources"]["limits"]["memory"]
        assert shm["medium"] == "Memory" and int(size.removesuffix("Gi")) < int(memory.removesuffix("Gi"))
        assert "/dev/shm" in {mount["mountPath"] for mount in container(group)["volumeMounts"]}


def test_ray_is_the_pinned_one_in_image_and_manifest_and_nothing_else_runs_on_the_head(job):
    pinned = re.search(r"(?m)^ray==(\S+)", (settings.ROOT / "requirements.txt").read_text())[1]
    assert job["rayClusterSpec"]["rayVersion"] == pinned
    assert re.search(r"(?m)^FROM rayproject/ray:(\S+)-py311$", (KUBERAY / "Dockerfile").read_text())[1] == pinned
    assert job["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_entry_point_is_where_the_image_puts_the_code():
    image = (KUBERAY / "Dockerfile").read_text()
    assert "COPY --chown=ray:users . /opt/longtake" in image and "ENV PYTHONPATH=/opt/longtake" in image


# -- Slurm ------------------------------------------------------------------------------------------------------------


def test_the_slurm_script_is_bash_and_asks_for_the_nodes_of_its_preset():
    assert subprocess.run(["bash", "-n", SLURM]).returncode == 0
    text = SLURM.read_text()
    preset = re.search(r"cluster=(h100_\w+)", text)[1]
    cluster = settings.load([f"cluster={preset}", "preset=wan_1_3b"]).cluster
    nodes, gpus = (int(re.search(rf"--{name}=(\d+)", text)[1]) for name in ("nodes", "gpus-per-node"))
    assert (nodes * gpus, gpus) == (cluster.gpus, cluster.node_gpus)
    roles = set(re.findall(r"role=(\w+)", text)) - {"role"}
    assert roles == {cluster.learner_labels["role"], cluster.rollout_labels["role"]}


def test_the_slurm_script_runs_the_entry_point_that_ray_would(tmp_path):
    """With a scheduler of three lines in place of Slurm's, and a `ray` that only says what it was given."""
    tools = {
        "scontrol": "echo node0; echo node1",
        "openssl": "echo 00ff",
        "srun": 'case "$*" in *hostname*) echo "10.0.0.7 fe80::1";; '
        '*) shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done;; esac',
        "ray": 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN $*"',
    }
    (tmp_path / "bin").mkdir()
    for name, body in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text(f'PATH="{tmp_path}/bin:$PATH"\n')
    slurm = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_SUBMIT_DIR": "/s", "SLURM_JOB_NAME": "a"}
    shown = subprocess.run(
        ["bash", SLURM, "teacher=/shared/a b", "cluster=h100_8"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"} | slurm,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    entry = "python train.py cluster.address=10.0.0.7:6379 preset=wan_1_3b run_dir=/s/runs/a"
    assert shown.stdout.splitlines() == [
        f"token 00ff symmetric-run --address 10.0.0.7:6379 --min-nodes 2 --labels role={role} -- {entry} "
        "teacher=/shared/a b cluster=h100_8"
        for role in ("learner", "rollout")
    ]


def test_the_gpu_check_as_a_job_is_the_command_of_make_gpu_with_time_for_it(tmp_path):
    script, recipe = SLURM.with_name("gpu_check.sbatch"), (settings.ROOT / "Makefile").read_text()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text('python() { echo python "$@"; }\nexec() { "$@"; }\n')
    shown = subprocess.run(["bash", script, "only=[machine]"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.stdout == "python -m benchmarks.gpu_check only=[machine]\n", shown.stderr
    assert "-m benchmarks.gpu_check $(ARGS)" in recipe
    hours, minutes, _ = map(int, re.search(r"--time=(\d+):(\d+):(\d+)", script.read_text()).groups())
    assert 60 * hours + minutes > 8 and "--gpus=1" in script.read_text()
