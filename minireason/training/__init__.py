"""Batches, losses, the optimizer step, and the rollouts of reinforcement learning."""
