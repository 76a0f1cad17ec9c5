"""What every other package stands on: configuration, the run folder, ranks, small files."""
