"""Where an alert fires and `make doctor` warns."""

CERTIFICATE_DAYS = 21
"""Days before the end of a certificate. Any `up` renews a server's certificate a year earlier, so
nobody has run one for that long."""

LAG_BYTES = 256 * 1024 * 1024
"""Bytes of WAL that a replica of PostgreSQL may be behind. Patroni tells positions only every
10 s."""

MEMORY_SHARE = 0.85
"""Of the memory limit of Redis' container. `maxmemory` is 60 % of it."""

VOLUME_PERCENT = 85
"""Of a volume that is full."""
