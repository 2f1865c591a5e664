# Waits for Vault's servers, and refuses to go on where an initialisation would lose keys.
# $SERVERS: the addresses of all servers, $VAULT_ADDR among them. $SELF_UNSEALED: `true` with a key
# service. $SECRET: namespace and name of the Secret that is mounted at /run/keys.
set -eu
umask 077
trap 'exit 143' TERM

fail() {
  echo "$*" >&2
  exit 1
}

# Not by the exit code, which is 2 for a new server and for one that refuses the connection
# (Vault 1.21.2).
state() {
  case $(vault operator init -status -format=json -address="$1" 2> /dev/null) in
    *'nitialized": true'*) echo initialised ;;
    *'nitialized": false'*) echo new ;;
    *) echo unreachable ;;
  esac
}

# A server that lost its volume joins the others again: it is new only if all of them are.
tries=0
while true; do
  first=$(state "$VAULT_ADDR")
  [ "$first" != initialised ] || break
  all=new
  for server in $SERVERS; do
    other=$(state "$server")
    [ "$other" = new ] || all="$server is $other"
  done
  [ "$all" != new ] || break
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || fail "Vault cannot be initialised: $VAULT_ADDR is $first, $all." \
    "All servers must answer before the first of them is initialised." \
    "Look at the pods, their events and the log of container vault."
  echo "waiting: $all"
  sleep 3
done

keys=0
for file in /run/keys/vault-unseal-* /run/keys/vault-recovery-*; do
  [ ! -f "$file" ] || keys=$((keys + 1))
done
echo "Vault is $first, the Secret holds $keys keys"

if [ "$first" = new ] && [ "$keys" -gt 0 ]; then
  fail "Vault is new, its volume is empty, but Secret $SECRET holds the keys of an earlier Vault." \
    "Restore that volume. Or, if nobody else keeps anything in Vault: make vault-renew" \
    "(docs/operations.md, Vault is lost)."
fi
if [ "$first" = initialised ] && [ "$keys" -eq 0 ] && [ "$SELF_UNSEALED" != true ]; then
  fail "Secret $SECRET holds no unseal keys: Vault will stay sealed after its next restart." \
    "Put the keys back from the backup, then run the update again; or: make vault-renew" \
    "(docs/operations.md, Vault is lost)."
fi

# The initialisation makes this a root token, and vault_login.sh revokes it. It is chosen here so
# that nobody needs to keep one. Vault refuses a chosen token that begins with `hvs.`.
printf 'p%s' "$(head -c 30 /dev/urandom | base64 | tr -dc 'A-Za-z0-9')" > /run/init/token
