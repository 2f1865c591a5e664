"""The layers of a Shlink environment, one file each; `__main__.py` links them."""
