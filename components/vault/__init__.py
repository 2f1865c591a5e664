"""Vault: server, initialisation, policies, and how people log in."""
