"""Runs the program without an engine, in the SDK's own test monitor, and shows what it registered.

`make preview` and the tests use the same recording.
"""
