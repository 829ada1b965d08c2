"""HTTP side of the node."""
