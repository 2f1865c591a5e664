set -eu
# Running pods keep the password they started with, and the operator only tries the new one: without
# this it finds no master and heals nothing. Both passwords are accepted here until the operator has
# restarted the pods. Values go over standard input, not the command line.
# $SERVERS and $SENTINEL are host:port, $MASTER is the monitored name, $OLD and $NEW are the passwords.

# Where network policies are enforced, a new pod's address may be refused at first (kube-router
# learns it some 100 ms after the start). Without `-e` a server that asks for a password has answered.
answers() {
  tries=${TRIES:-30}
  until timeout 3 redis-cli -h "$1" -p "$2" ping >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "$1:$2 does not answer" >&2; exit 1; }
    sleep 1
  done
}
rotate() {
  host=$1 port=$2
  answers "$host" "$port"
  if REDISCLI_AUTH=$NEW redis-cli --no-auth-warning -h "$host" -p "$port" ping 2>/dev/null | grep -q PONG
  then known=$NEW
  else known=$OLD
  fi
  printf '>%s' "$NEW" | REDISCLI_AUTH=$known redis-cli --no-auth-warning -e -h "$host" -p "$port" -x acl setuser default >/dev/null
  printf '%s' "$NEW" | REDISCLI_AUTH=$NEW redis-cli --no-auth-warning -e -h "$host" -p "$port" -x config set masterauth >/dev/null
  echo "redis $host:$port accepts the new password"
}
for server in $SERVERS; do rotate "${server%:*}" "${server##*:}"; done

# A sentinel knows the others but not itself: ask one, then ask those that it names.
others() {
  answers "$1" "$2"
  redis-cli -e -h "$1" -p "$2" --csv sentinel sentinels "$MASTER" | tr -d '"' | tr ',' '\n' |
    awk '$0=="ip"{getline;i=$0} $0=="port"{getline;print i":"$0}'
}
# shellcheck disable=SC2153 # from the environment of the Job
first=$(others "${SENTINEL%:*}" "${SENTINEL##*:}")
all=$(for sentinel in $first; do echo "$sentinel"; others "${sentinel%:*}" "${sentinel##*:}"; done | sort -u)
[ -n "$all" ] || { echo "no sentinel answers" >&2; exit 1; }
for sentinel in $all; do
  answers "${sentinel%:*}" "${sentinel##*:}"
  printf '%s' "$NEW" | redis-cli -e -h "${sentinel%:*}" -p "${sentinel##*:}" -x sentinel set "$MASTER" auth-pass >/dev/null
  echo "sentinel $sentinel uses the new password"
done
