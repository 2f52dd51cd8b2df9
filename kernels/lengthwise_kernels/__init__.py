"""Operations of a decoder-only transformer over a paged KV cache, on any device.

`dispatch` is the only module others import. `reference` is the plain PyTorch truth of
every operation, and the way it runs on a CPU.
"""
