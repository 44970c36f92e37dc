"""Choosing: what to try, what to deliver."""
