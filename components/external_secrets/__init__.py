"""Secrets from Vault in a consumer's namespace: SecretStore, role, policy and ExternalSecrets."""
