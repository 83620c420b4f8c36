"""Check that a Ray answers at an address and accepts us: in milliseconds, where ray.init tries for a minute.

The only module that uses private stubs of Ray's head.
"""

import os
import socket

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel  # sends token and TLS as Ray's own clients do
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from cluster.run_errors import CannotStart

_TIMEOUT_S = 10


def require_head(address: str) -> None:
    """Return when the head at `address` (host:port; others are left to Ray) answers, accepts us and has our version.

    Raises CannotStart.
    """
    key, mode = f"cluster.address={address}", os.environ.get("RAY_AUTH_MODE")
    token = "the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
    if address.startswith(("http", "ray://")):
        kind = "a dashboard's" if address.startswith("http") else "Ray Client's"
        raise CannotStart(f"{key}: it is {kind}. Fix: write the cluster's, like host:6379.")
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise CannotStart(f"{key}: nothing answers there ({error}). Fix: start a cluster or check it.") from error
    try:
        with init_grpc_channel(address) as channel:
            head = NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=_TIMEOUT_S)
    except AuthenticationError as error:
        cure = f"put {token}, or set RAY_AUTH_MODE=disabled for a cluster without"
        raise CannotStart(f"RAY_AUTH_MODE=token: there is no token here. Fix: {cure}.") from error
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            cure = f"set RAY_AUTH_MODE=token, with {token}"
            problem = f"the cluster at {address} demands its token" + (", not another" if mode == "token" else "")
            raise CannotStart(f"RAY_AUTH_MODE={mode}: {problem}. Fix: {cure}.") from error
        cure = "write the head's port, 6379 by default"
        raise CannotStart(f"{key}: no Ray head answers there ({error.code().name}). Fix: {cure}.") from error
    if head.ray_version != ray.__version__:
        problem = f"the cluster runs Ray {head.ray_version}, and here is {ray.__version__}"
        raise CannotStart(f"{key}: {problem}. Fix: install the same on both.")
