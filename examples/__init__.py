"""Real programs on real data; run one with `python -m examples.<name>`."""
