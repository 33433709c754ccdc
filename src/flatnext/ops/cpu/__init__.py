"""Kernels of our own for x86 CPUs, compiled on first use."""
