"""A character model of enwik8: the smallest whole example."""
