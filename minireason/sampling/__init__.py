"""Drawing completions: one plain loop, and faster ones that draw the same."""
