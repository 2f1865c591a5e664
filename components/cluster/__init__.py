"""The cluster as the program reaches it: forwards, waits, commands in pods."""
