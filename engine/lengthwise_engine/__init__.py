"""The model on a device: KV cache, runner, sampler and the checkpoints they load.

The engine knows nothing of requests, queues or the network. It is handed a step, computes it, and
says which tokens came out; who decides what belongs into a step lives in `lengthwise_policy`.
"""
