"""Brings an environment back after a killed run or a lost Vault."""
