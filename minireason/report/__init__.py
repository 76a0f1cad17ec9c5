"""From finished runs to figures, the page, the README's table and docs/RESULTS.md."""
