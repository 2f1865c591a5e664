"""What an environment may set, one file per layer."""
