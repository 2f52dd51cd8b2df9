"""Kernels held against their references on a GPU."""
