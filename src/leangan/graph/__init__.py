"""Reading and rewriting the graph."""
