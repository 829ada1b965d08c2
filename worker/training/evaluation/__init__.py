"""The report on a model: what it measures, on which pictures, and how sure that is."""
