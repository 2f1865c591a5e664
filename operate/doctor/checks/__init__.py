"""The questions that doctor asks, in the order of the dependency picture."""

from operate.doctor.findings import Check

from . import cluster, operators, postgres, redis, secrets, shlink, vault

CHECKS: tuple[Check, ...] = (
    *cluster.CHECKS,
    *operators.CHECKS,
    *vault.CHECKS,
    *secrets.CHECKS,
    *postgres.CHECKS,
    *redis.CHECKS,
    *shlink.CHECKS,
)
