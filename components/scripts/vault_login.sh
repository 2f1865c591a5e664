# Gives the program its own login in Vault, proves it, and leaves no root token behind.
# Every step may be repeated, whenever an earlier run was cut off.
# $LOGIN: name of the AppRole's mount and of its policy. $ROLE: its role; $FORMER_ROLE: the role
# of the login before, which serves until this one is proven. $TOKEN_TTL: seconds.
# $SECRET: namespace and name of the Secret that is mounted at /run/keys.
# /run/login holds role-id, secret-id and policy; /run/init/token a token that may be root.
set -eu
trap 'exit 143' TERM
# shellcheck disable=SC2153 # from the environment of the Job
role=auth/$LOGIN/role/$ROLE
# shellcheck disable=SC2153 # from the environment of the Job
former_role=auth/$LOGIN/role/$FORMER_ROLE

fail() {
  echo "$*" >&2
  exit 1
}

log_in() {
  VAULT_TOKEN=$(vault write -field=token "auth/$LOGIN/login" \
    role_id=@/run/login/role-id secret_id=@/run/login/secret-id 2> /tmp/login.error) || return 1
  export VAULT_TOKEN
}

# With the program's own token: is what this script sets up there, and as it should be?
is_set_up() {
  log_in || return 1
  [ "$(vault policy read "$LOGIN" 2> /tmp/login.error)" = "$(cat /run/login/policy)" ] || return 1
  [ "$(vault read -field=token_ttl "$role" 2> /tmp/login.error)" = "$TOKEN_TTL" ]
}

field() {
  sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p"
}

# Prints the exclusive-or of an encoded token and its one-time password, which is the token.
decode() {
  encoded=$1 otp=$2
  while [ $((${#encoded} % 4)) -ne 0 ]; do encoded=$encoded=; done
  for byte in $(printf '%s' "$encoded" | base64 -d | od -An -v -tu1); do
    letter=${otp%"${otp#?}"}
    otp=${otp#?}
    # shellcheck disable=SC2059 # the byte is the format
    printf "\\$(printf '%03o' $((byte ^ $(printf '%d' "'$letter"))))"
  done
}

# A root token from the unseal or recovery keys, as `vault operator generate-root` makes it. That
# command of OpenBao (2.6.2) wants a token first; the endpoint is the same in both products.
generate_root() {
  vault delete sys/generate-root/attempt > /dev/null 2>&1 || true
  started=$(vault write -force -format=json sys/generate-root/attempt) || return 1
  nonce=$(echo "$started" | field nonce)
  for file in /run/keys/vault-unseal-* /run/keys/vault-recovery-*; do
    [ -f "$file" ] || continue
    answer=$(vault write -format=json sys/generate-root/update nonce="$nonce" key=@"$file") || return 1
    if [ "$(echo "$answer" | field complete)" = true ]; then
      decode "$(echo "$answer" | field encoded_root_token)" "$(echo "$started" | field otp)"
      return
    fi
  done
  vault delete sys/generate-root/attempt > /dev/null 2>&1 || true
  return 1
}

become_root() {
  VAULT_TOKEN=$(cat /run/init/token)
  export VAULT_TOKEN
  [ "$(vault read -field=policies auth/token/lookup-self 2> /dev/null)" != "[root]" ] || return 0
  echo "making a root token from the keys in Secret $SECRET"
  unset VAULT_TOKEN
  VAULT_TOKEN=$(generate_root) || return 1
  export VAULT_TOKEN
}

# One that ends by itself, in case this run is cut off before it can revoke it.
limit_root() {
  VAULT_TOKEN=$(vault token create -policy=root -orphan -ttl=5m -field=token)
  export VAULT_TOKEN
}

write_role() {
  vault write "$role" token_policies="$LOGIN" token_ttl="$1" token_max_ttl="$1"
}

write_role_id() {
  vault write "$role/role-id" role_id=@/run/login/role-id
}

set_up() {
  vault auth list -format=json | grep -q "^ *\"$LOGIN/\"" ||
    vault auth enable -path="$LOGIN" -description="the Pulumi program" approle
  vault policy write "$LOGIN" /run/login/policy
  # Together with the role, its earlier secret ids go.
  vault delete "$role"
  write_role 60
  # An earlier version of this script had one role for every login, which may hold this id.
  write_role_id || {
    vault delete "$former_role"
    write_role_id
  }
  vault write "$role/custom-secret-id" secret_id=@/run/login/secret-id > /dev/null
  (log_in && vault token revoke -self > /dev/null) ||
    fail "The login $LOGIN was made and does not work: $(cat /tmp/login.error)"
  vault delete "$former_role"
  # Last of all: by this is_set_up tells that no step is left.
  write_role "$TOKEN_TTL"
}

revoke_other_root_tokens() {
  own=$(vault read -field=accessor auth/token/lookup-self)
  for accessor in $(vault list -format=json auth/token/accessors | tr -d '[]",'); do
    [ "$accessor" != "$own" ] || continue
    # One that expired since it was listed is refused.
    policies=$(vault write -field=policies auth/token/lookup-accessor accessor="$accessor" \
      2> /dev/null) || continue
    [ "$policies" != "[root]" ] || vault token revoke -accessor "$accessor"
  done
}

tries=0
until vault status > /tmp/status 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -ge 60 ]; then
    cat /tmp/status >&2
    fail "Vault does not answer, or it stays sealed. Look at the log of the container unseal in" \
      "Vault's pod, and at the keys in Secret $SECRET (docs/runbook.md, Vault sealed)."
  fi
  sleep 3
done

if is_set_up; then
  vault token revoke -self > /dev/null
  echo "the login $LOGIN works, nothing is to be done"
  exit 0
fi
unset VAULT_TOKEN
become_root || fail "The program's login $LOGIN does not work or must be changed, and the keys in" \
  "Secret $SECRET do not give a root token: $(cat /tmp/login.error)" \
  "Put the unseal or recovery keys back from the backup and run the update again," \
  "or: make vault-renew (docs/operations.md, Vault is lost)."
limit_root
# Before the login exists: a run that finds the login in order leaves everything as it is.
revoke_other_root_tokens
set_up
vault token revoke -self
unset VAULT_TOKEN
is_set_up || fail "The login $LOGIN was made and does not work: $(cat /tmp/login.error)"
vault token revoke -self > /dev/null
echo "the login $LOGIN works, and no root token is left"
