"""The manifest passes KubeRay's own CRDs, as strictly as kubectl: a field that a CRD lacks is an error.

The files are not shipped here. KUBERAY_CRDS names a folder with one folder per release, as in
KUBERAY_CRDS/1.6.0/ray.io_rayjobs.yaml, or the files of one release, whose number is then the folder's name. Without
it those tests are skipped.
"""

import copy
import json
import os
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import settings
from tests.fakes.kuberay_fields import RAY_JOB, faults

KUBERAY = settings.ROOT / "cluster/kuberay"
OF_1_4 = ("1.4", "1.5.0")
"""Releases for which the manifest is patched."""


def crds(folder):
    """The files of RayJob's CRD in a folder of releases, or of one. Raises ValueError where there are none."""
    of_job = "*rayjobs.yaml"
    if found := sorted(Path(folder).glob(f"*/{of_job}")) or sorted(Path(folder).absolute().glob(of_job)):
        return found
    raise ValueError(f"KUBERAY_CRDS={folder}: no RELEASE/ray.io_rayjobs.yaml there. Fix: name a folder of CRDs.")


CRDS = crds(os.environ["KUBERAY_CRDS"]) if "KUBERAY_CRDS" in os.environ else [None]
AMOUNT = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
SCHEMA = {
    "type": "object",
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["rayClusterSpec"],
            "properties": {
                "backoffLimit": {"type": "integer", "format": "int32"},
                "mode": {"enum": ["token", "disabled"], "type": "string"},
                "limits": {"additionalProperties": AMOUNT, "type": "object"},
                "rayClusterSpec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        },
    },
}
"""A CRD's schema in small, with each of its forms."""


def strict(schema):
    """The schema of a CRD as kubectl reads it: only named fields, unless it preserves others or maps any name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    read = {
        name: {field: strict(part) for field, part in value.items()} if name == "properties" else strict(value)
        for name, value in schema.items()
    }
    if "properties" in read and not read.get("x-kubernetes-preserve-unknown-fields"):
        read.setdefault("additionalProperties", False)
    return read


def refusals(schema, document):
    """What is wrong with a document, by path. The API server itself checks kind, version and metadata."""
    schema = copy.deepcopy(schema)
    for name, of in (("apiVersion", "string"), ("kind", "string"), ("metadata", "object")):
        schema["properties"][name] = {"type": of}
    found = Draft202012Validator(strict(schema)).iter_errors(document)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:160]}" for error in found]


def documents():
    """The RayJob as it is, and as kustomize patches it for the older releases."""
    job = list(yaml.safe_load_all((KUBERAY / "rayjob.yaml").read_text()))[1]
    patched, rules = copy.deepcopy(job), yaml.safe_load((KUBERAY / "kustomization.yaml").read_text())
    for operation in yaml.safe_load(rules["patches"][0]["patch"]):
        *path, last = operation["path"].strip("/").split("/")
        place = patched
        for name in path:
            place = place[int(name) if isinstance(place, list) else name]
        if operation["op"] == "remove":
            del place[last]
        else:
            assert operation["op"] == "add" or last in place, operation
            place[last] = operation["value"]
        patched = copy.deepcopy(json.loads(json.dumps(patched)))  # YAML's aliases would be changed together
    return job, patched


@pytest.mark.parametrize("crd", CRDS, ids=lambda path: path and path.parent.name)
def test_the_manifest_passes_a_published_crd(crd):
    if crd is None:
        pytest.skip("KUBERAY_CRDS names no folder of KubeRay's CRDs")
    definition = yaml.safe_load(crd.read_text())
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
    job, patched = documents()
    old = crd.parent.name.removeprefix("v").startswith(OF_1_4)
    assert refusals(version["schema"]["openAPIV3Schema"], patched if old else job) == []


@pytest.mark.parametrize("place", ["1.6.0", "."])
def test_crds_are_found_by_release_and_in_a_flat_folder(tmp_path, place):
    file = tmp_path / place / "ray.io_rayjobs.yaml"
    file.parent.mkdir(exist_ok=True)
    for name in (file, file.with_name("ray.io_rayclusters.yaml")):
        name.touch()
    assert crds(tmp_path) == [file] and crds(tmp_path)[0].parent.name in ("1.6.0", tmp_path.name)


@pytest.mark.parametrize("folder", ["absent", "."])
def test_a_folder_without_crds_is_an_error_that_names_the_variable(tmp_path, folder):
    with pytest.raises(ValueError, match=r"^KUBERAY_CRDS=.*\.$"):
        crds(tmp_path / folder)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"backoffLimits": 3}, "spec"),
        ({"backoffLimit": "3"}, "spec/backoffLimit"),
        ({"mode": "none"}, "spec/mode"),
        ({"limits": {"memory": [1]}}, "spec/limits/memory"),
        ({"rayClusterSpec": None}, "spec/rayClusterSpec"),
    ],
)
def test_what_kubectl_would_refuse_is_found_at_its_place(spec, path):
    good = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "a"}}
    whole = {"rayClusterSpec": {"any": 1}, "backoffLimit": 3, "mode": "token", "limits": {"cpu": 1, "memory": "1Gi"}}
    assert refusals(SCHEMA, good | {"spec": whole}) == []
    assert [fault.partition(":")[0] for fault in refusals(SCHEMA, good | {"spec": whole | spec})] == [path]


def test_the_patched_manifest_has_fields_of_1_4_only_and_every_node_keeps_its_labels():
    job, patched = documents()
    cluster = patched["spec"]["rayClusterSpec"]
    assert faults(patched, RAY_JOB, "job") == []
    assert not {"authOptions", "autoscalerOptions"} & cluster.keys() and not cluster["enableInTreeAutoscaling"]
    for group, before in zip(
        cluster["workerGroupSpecs"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"], strict=True
    ):
        (container,) = group["template"]["spec"]["containers"]
        given = {entry["name"]: entry["value"] for entry in container["env"]}
        kept = {entry["name"] for entry in before["template"]["spec"]["containers"][0]["env"]}
        labels = {name: value for name, value in before["labels"].items() if name != "ray.io/accelerator-type"}
        assert "labels" not in group and json.loads(given["RAY_OVERRIDE_LABELS"]) == labels  # the other is Ray's own
        assert given["RAY_AUTH_MODE"] == "disabled" and kept <= given.keys()
        assert group["replicas"] == group["maxReplicas"]
