"""Every stage reads the frozen sets, most of whose problems it leaves out; here once for all."""

from functools import cache

from minireason.measure import evaluate

evaluate.load_frozen = cache(evaluate.load_frozen)
