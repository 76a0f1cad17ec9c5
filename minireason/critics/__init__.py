"""Learned judges: values at step ends, the labels that teach them, and their training."""
