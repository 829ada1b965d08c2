"""`python -m release`, with deploy/ on the path."""

from release.cli import main

main()
