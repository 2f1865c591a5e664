"""Namespaces, and who may talk to whom."""
