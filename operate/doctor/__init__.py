"""Finds the cause when something is wrong."""
