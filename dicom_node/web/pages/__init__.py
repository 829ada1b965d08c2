"""The pages: each module unpacks a request, calls the functions of the node, and renders."""
