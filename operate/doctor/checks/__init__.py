"""The questions that doctor asks, in the order of the dependency picture."""

from operate.doctor.findings import Check

from . import cluster, postgres, redis, secrets, shlink, vault

CHECKS: tuple[Check, ...] = (
    *cluster.CHECKS,
    *vault.CHECKS,
    *secrets.CHECKS,
    *postgres.CHECKS,
    *redis.CHECKS,
    *shlink.CHECKS,
)
