"""Base test cases that every source, architecture, task and runtime must pass."""
