# Downloads GeoLite's City database once for all of Shlink's pods, and serves it to them.
# $1: geolite_download.php. $FOLDER is a volume of the pod. Until a download works there is nothing
# to serve, and Shlink counts visits without a place.
mkdir -p "$FOLDER/www" "$FOLDER/unpacked"
PHP_CLI_SERVER_WORKERS=4 php -q -q -S "[::]:$PORT" -t "$FOLDER/www" &
# The first process of a container ignores SIGTERM unless it says otherwise.
trap 'exit 143' TERM
cd "$FOLDER" || exit
while true; do
  if php -r "$1" && tar -xzf new.tar.gz -C unpacked && mv unpacked/*/GeoLite2-City.mmdb www/; then
    date -u +%FT%TZ > version.new && mv version.new www/version
    echo "serving GeoLite's database of $(cat www/version)"
  fi
  rm -rf new.tar.gz unpacked/*
  sleep 60 &
  wait $!
done
