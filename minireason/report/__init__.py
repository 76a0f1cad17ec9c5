"""From finished runs to figures, the page and the README's tables."""
