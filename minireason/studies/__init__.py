"""Questions beyond the ladder, each with its own table and pictures."""
