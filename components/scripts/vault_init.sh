# Initialises Vault unless that was done before: bank-vaults keeps the keys in the Secret and makes
# the token that vault_check.sh chose a root token.
set -u
BANK_VAULTS_INIT_ROOT_TOKEN=$(cat /run/init/token)
export BANK_VAULTS_INIT_ROOT_TOKEN
trap 'exit 143' TERM

# A new pod's first connections may be refused. It is safe to repeat: an initialised Vault is left
# alone, and vault_login.sh can do without the chosen token.
tries=0
until timeout 300 bank-vaults init; do
  tries=$((tries + 1))
  [ "$tries" -lt 10 ] || exit 1
  sleep 3
done
