"""Techniques: one file each, Generator -> Generator."""
