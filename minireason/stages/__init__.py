"""The stages: each a function from one checkpoint folder to the next. None imports another."""
