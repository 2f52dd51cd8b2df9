"""Plain PyTorch truth of every operation; also how they run on a CPU.

An operation is a function of tensors. It allocates its result, and changes nothing else
unless its name begins with `store_`.
"""
