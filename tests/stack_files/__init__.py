"""Stack files kept as tests: wrong ones with the message they get, and unusual right ones."""
