"""A generator in fixed point: formats, the network as numpy computes it, and how it is read."""
