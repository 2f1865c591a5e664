"""Redis and Sentinel, run by redis-operator, and its password."""
