"""The transformer and what surrounds it: tokens, attention, its CPU layers, checkpoints."""
