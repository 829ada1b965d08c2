"""Ways to send an artifact to a destination."""
