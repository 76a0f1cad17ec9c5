"""Every stage reads the frozen sets, most of whose problems it leaves out; here once for all."""

from functools import cache

from minireason.measure import evaluate
from minireason.studies import stream_of_search_curves

for module in (evaluate, stream_of_search_curves):
    module.load_frozen = cache(module.load_frozen)
