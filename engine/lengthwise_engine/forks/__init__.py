"""Processes that begin with what another one has imported: a start takes 20 ms instead of two
seconds of a core, and what was imported lies in memory once.

A fork server is a process that runs nothing: it has imported modules, has no threads that a fork
would lose (OpenBLAS ends its own before one), and has touched neither a GPU nor gRPC's core. It
ends when its user hangs up or dies. Linux only; elsewhere libraries do not survive a fork.
"""
