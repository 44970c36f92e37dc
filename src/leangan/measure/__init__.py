"""Latency, memory, size, and the quality of pictures and signals."""
