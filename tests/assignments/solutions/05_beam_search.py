"""A solution of assignment 5, from its README alone."""


def beam_search(draw, value, beams, width, longest, budget):
    kept, finished, spent = [()], [], 0
    ended = False
    while kept and not ended:
        candidates = []
        for prefix in kept:
            n = min(width, (budget - spent) // longest)
            if n == 0:
                ended = True
                break
            for step in draw(prefix, n):
                spent += step.tokens
                longer = (*prefix, step.text)
                if step.state == "complete":
                    finished.append(longer)
                elif step.state == "open" and longer not in candidates:
                    candidates.append(longer)
        candidates.sort(key=value, reverse=True)
        kept = candidates[:beams]
    best = max(finished, key=value, default=None)
    return best, spent
