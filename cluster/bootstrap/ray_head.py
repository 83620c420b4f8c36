"""Check that a Ray answers at an address and accepts us: in milliseconds, where ray.init tries for a minute.

The only module that uses private stubs of Ray's head.
"""

import os
import socket

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel  # sends what Ray's own clients send: the token, and TLS
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from cluster.run_errors import CannotStart

_TIMEOUT_S = 10


def require_head(address: str) -> None:
    """Return when the head at `address` (host:port; others are left to Ray) answers, accepts us and has our version.

    Raises CannotStart.
    """
    if address.startswith(("http", "ray://")):
        kind = "a dashboard's" if address.startswith("http") else "Ray Client's"
        raise CannotStart(f"cluster.address={address} is {kind}; give the cluster's, like host:6379")
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise CannotStart(
            f"nothing answers at cluster.address={address} ({error}); start a cluster or check it"
        ) from error
    try:
        version = _version(address)
    except AuthenticationError as error:
        raise CannotStart(
            "RAY_AUTH_MODE is token here, and there is no token; put the cluster's into ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN, or set RAY_AUTH_MODE=disabled for a cluster without"
        ) from error
    if version != ray.__version__:
        raise CannotStart(
            f"the cluster at {address} runs Ray {version}, and here is {ray.__version__}; install the same on both"
        )


def _version(address: str) -> str:
    mode = os.environ.get("RAY_AUTH_MODE")
    with init_grpc_channel(address) as channel:
        try:
            return NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=_TIMEOUT_S).ray_version
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                here = "another one is given" if mode == "token" else f"RAY_AUTH_MODE is {mode} here; set it to token"
                raise CannotStart(
                    f"the cluster at {address} demands its token, and {here}, with the cluster's token in "
                    "~/.ray/auth_token or RAY_AUTH_TOKEN"
                ) from error
            raise CannotStart(
                f"what answers at cluster.address={address} is no Ray head ({error.code().name}); give the head's "
                "port, 6379 by default"
            ) from error
