# Starts Shlink as its image does, with RoadRunner's metrics beside it.
# `http_metrics` counts requests and measures them; `static` is what the image's own file has.
# Tried on Shlink 4.6.0 with RoadRunner 2025.1.4.
env SHLINK_RUNTIME=none sh ./docker-entrypoint.sh
exec ./bin/rr serve -c config/roadrunner/.rr.yml \
  -o "metrics.address=[::]:$METRICS_PORT" \
  -o http.middleware=static,http_metrics
