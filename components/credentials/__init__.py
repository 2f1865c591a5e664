"""Passwords, certificates, and their way to a consumer."""
