"""A deployment in virtual time: the policies that serve, over a heap of events, at costs that were
measured or calculated for GPUs that need not be there.

No decision is made here. What a cluster is made of is in `cluster`, what steps take in `cost`, what
arrives in `workload`.
"""
