"""The operators: External Secrets, PGO and redis-operator."""
