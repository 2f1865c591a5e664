# Waits until $HOST accepts a connection on $PORT, for as long as that takes.
# The first process of a container ignores SIGTERM unless it says otherwise.
trap 'exit 143' TERM
until nc -z -w 2 "$HOST" "$PORT"; do
  echo "waiting for $HOST:$PORT"
  sleep 2
done
