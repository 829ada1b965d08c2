"""What `make release` and `make audit` do: build, list, judge, sign."""
