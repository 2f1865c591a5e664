"""The program without an engine: run in the SDK's own test monitor, recorded, and shown to a person. The tests use the same recording."""
