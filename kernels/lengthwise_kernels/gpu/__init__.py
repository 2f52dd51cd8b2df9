"""Triton kernels, one operation per file; how operations run on an NVIDIA GPU.

A launcher has the signature of its truth in `reference`, checks its tensors before it
launches, and reads nothing back from the device, so that it can be captured in a CUDA graph. Sums
are float32 whatever the tensors are.

Triton compiles a kernel anew for integers that are 1 or a multiple of 16, and for addresses that
are not one. What changes from step to step is therefore not specialised on, and tensors made for a
step begin at multiples of 16 bytes: a step of another size waits for no compiler.

Arithmetic on bfloat16 goes through float32 explicitly: Triton's interpreter, which runs these
kernels without a GPU, has no other. Products of bfloat16 matrices it gets wrong.
"""
