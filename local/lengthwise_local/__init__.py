"""A whole deployment as processes on this machine: for `lengthwise up`, end-to-end tests and
benchmarks.

The processes come from the extras `router` and `worker`; this package itself needs neither.
"""

from lengthwise_local.cluster import LocalCluster
from lengthwise_local.errors import LocalClusterError
from lengthwise_local.models import named_models
from lengthwise_local.process import Process, Role
from lengthwise_local.supervisor import Died, Restarted, Supervisor
from lengthwise_wire.announcement import Announcement

__all__ = [
    "Announcement",
    "Died",
    "LocalCluster",
    "LocalClusterError",
    "Process",
    "Restarted",
    "Role",
    "Supervisor",
    "named_models",
]
