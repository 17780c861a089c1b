"""The environment of the pretended cluster, which Ray reads when it is imported."""

import os

from svd_core.benchmarks.cluster.nodes import HEAD, ray_environment
from svd_core.cluster.config import ClusterConfig, prepare_environment

os.environ.update(ray_environment())
prepare_environment(ClusterConfig(f"{HEAD}:6379"))
