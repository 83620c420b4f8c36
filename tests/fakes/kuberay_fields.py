"""The fields of ray.io/v1 that a manifest may use with KubeRay 1.5.1 and newer, by hand from its CRDs.

A set lists the values, also where the CRD takes any text and only KubeRay's operator or Kubernetes checks it. A star
marks what the CRD, or Kubernetes behind it, requires. Left out are fields of newer releases only: `secretName` of
`authOptions` and `preRunningDeadlineSeconds` (in 1.6.2), `priority` of a group (in 1.7.0).
"""

TEXTS = {str: str}
RESOURCES = {"requests": TEXTS, "limits": TEXTS}
PROBE = {
    "exec": {"command": [str]},  # of Kubernetes' ways the one that a pod of Ray has
    "initialDelaySeconds": int,
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
}
CONTAINER = {
    "*name": str,
    "*image": str,
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "env": [{"*name": str, "value": str}],
    "ports": [{"*containerPort": int, "name": str}],
    "resources": RESOURCES,
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
    "lifecycle": {"preStop": {"exec": {"command": [str]}}},
    "volumeMounts": [{"*name": str, "*mountPath": str, "readOnly": bool, "subPath": str}],
}
EXPRESSION = {
    "*key": str,
    "*operator": {"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"},
    "values": [str],
}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"*nodeSelectorTerms": [{"matchExpressions": [EXPRESSION]}]}
    }
}
POD = {
    "metadata": {"annotations": TEXTS, "labels": TEXTS},
    "*spec": {
        "terminationGracePeriodSeconds": int,
        "securityContext": {
            "fsGroup": int,
            "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
            "runAsUser": int,
            "runAsGroup": int,
        },
        "affinity": AFFINITY,
        "*containers": [CONTAINER],
        "nodeSelector": TEXTS,
        "tolerations": [
            {"key": str, "operator": {"Exists", "Equal"}, "value": str, "effect": {"NoSchedule", "NoExecute"}}
        ],
        "volumes": [
            {
                "*name": str,
                "persistentVolumeClaim": {"*claimName": str},
                "emptyDir": {"medium": {"Memory"}, "sizeLimit": str},
            }
        ],
    },
}
WORKERS = {
    "*groupName": str,
    "replicas": int,
    "*minReplicas": int,
    "*maxReplicas": int,
    "numOfHosts": int,
    "idleTimeoutSeconds": int,
    "labels": TEXTS,
    "resources": TEXTS,
    "rayStartParams": TEXTS,
    "*template": POD,
    "suspend": bool,
    "scaleStrategy": {"workersToDelete": [str]},
}
CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "authOptions": {"mode": {"token", "disabled"}},
    "autoscalerOptions": {
        "version": {"v1", "v2"},
        "idleTimeoutSeconds": int,
        "upscalingMode": {"Default", "Conservative", "Aggressive"},
        "resources": RESOURCES,
        "image": str,
        "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
        "env": [{"*name": str, "value": str}],
    },
    "suspend": bool,
    "*headGroupSpec": {
        "rayStartParams": TEXTS,
        "labels": TEXTS,
        "resources": TEXTS,
        "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
        "enableIngress": bool,
        "*template": POD,
    },
    "workerGroupSpecs": [WORKERS],
}
RAY_JOB = {
    "*apiVersion": {"ray.io/v1"},
    "*kind": {"RayJob"},
    "*metadata": {"*name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS},
    "*spec": {
        "entrypoint": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "metadata": TEXTS,
        "suspend": bool,
        "managedBy": {"ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"},
        "clusterSelector": TEXTS,
        "submitterPodTemplate": POD,
        "submitterConfig": {"backoffLimit": int},
        "submissionMode": {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": CLUSTER,
    },
}
CLAIM = {
    "*apiVersion": {"v1"},
    "*kind": {"PersistentVolumeClaim"},
    "*metadata": {"*name": str},
    "*spec": {
        "*accessModes": [{"ReadWriteMany"}],
        "storageClassName": str,
        "*resources": {"*requests": TEXTS},
    },
}


def faults(value, wanted, path):
    """Where `value` differs from the table."""
    if isinstance(wanted, set):
        return [] if value in wanted else [f"{path} is {value}, not one of {sorted(wanted)}"]
    if isinstance(wanted, type):
        return [] if type(value) is wanted else [f"{path} is {value!r}, no {wanted.__name__}"]
    if isinstance(wanted, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [fault for i, item in enumerate(value) for fault in faults(item, wanted[0], f"{path}[{i}]")]
    if not isinstance(value, dict):
        return [f"{path} is no mapping"]
    if wanted is TEXTS:
        return [f"{path}.{name} is {text!r}, no str" for name, text in value.items() if type(text) is not str]
    known = {name.removeprefix("*"): kind for name, kind in wanted.items()}
    unknown = [f"{path} has no field {name}" for name in value.keys() - known.keys()]
    lacking = [f"{path} lacks {name[1:]}" for name in wanted if name[0] == "*" and name[1:] not in value]
    return (
        unknown
        + lacking
        + [
            fault
            for name in value.keys() & known.keys()
            for fault in faults(value[name], known[name], f"{path}.{name}")
        ]
    )
