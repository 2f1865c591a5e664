"""What the program means (here) and what holds on real parts (tests/real)."""

import logging

# A run of a program that fails leaves futures behind in the SDK, and asyncio would print the
# traceback of each at the end.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
