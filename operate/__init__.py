"""Commands for a running environment: find what is wrong, prove that it works, rehearse a failure."""
