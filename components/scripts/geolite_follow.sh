# Keeps this pod's copy of GeoLite's database as new as the one that is served in the cluster.
# $1: geolite_fetch.php. Without an answer there is no copy, or an older one.
# The first process of a container ignores SIGTERM unless it says otherwise.
trap 'exit 143' TERM
while true; do
  pause=15
  if php -r "$1"; then
    pause=3600
  fi
  sleep "$pause" &
  wait $!
done
