"""Drift: whether the images of a source, or their figures, are still like those of its reference.

`statistics` compares two histograms, `images` reads them from rows, `judging` says what it means,
`silence` says which source sends nothing any more.
"""
