"""Fused attention in CUDA, and a host emulator that runs the same source on a CPU."""
