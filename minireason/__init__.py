"""minireason: from random weights to a reasoning model, each step one readable module."""

__version__ = "0.1.0"
