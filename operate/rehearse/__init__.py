"""Failures and restores, made on purpose and measured."""
