"""A whole deployment as processes on this machine: for `lengthwise up`, end-to-end tests and
benchmarks.

The processes come from the extras `router` and `worker`; this package itself needs neither.
"""

from lengthwise.local._cluster import LocalCluster
from lengthwise.local._process import Announcement, Process, Role
from lengthwise.local._supervisor import Died, Restarted, Supervisor
from lengthwise.local.errors import LocalClusterError

__all__ = [
    "Announcement",
    "Died",
    "LocalCluster",
    "LocalClusterError",
    "Process",
    "Restarted",
    "Role",
    "Supervisor",
]
