"""Rows, states and settings: the only place where the node and the worker meet."""
