"""Commands for a running environment: find a fault, prove that it works, rehearse a failure."""
