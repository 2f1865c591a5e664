"""PostgreSQL: a PostgresCluster of PGO with its users, backups and restores."""
