"""minireason: from random weights to a reasoning model, each step one readable module."""

import os

# Threads that wait for each other must not burn the processors that another program needs: before
# torch is loaded, as it reads this only then. Ten times faster on a busy machine (docs/LOG.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
