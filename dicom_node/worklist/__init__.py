"""The reading worklist: what to read first, who reads it, and what readers think of the figures."""
