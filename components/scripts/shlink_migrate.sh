# Prepares Shlink's database: tables, migrations, and the API key of this environment.
# Runs in Shlink's image, from /etc/shlink; $1 and $2 are shlink_repair.php and shlink_api_key.php.
set -eu

php -r "$1"

# The image's entrypoint creates and migrates, and starts no server while SHLINK_RUNTIME is not `rr`.
if ! sh ./docker-entrypoint.sh; then
  # Its installer hides the cause of a failure. Once more, with all that it can say.
  echo "the migration failed; the same once more, verbose:" >&2
  SHELL_VERBOSITY=3 sh ./docker-entrypoint.sh > /tmp/verbose.log 2>&1 || true
  cat /tmp/verbose.log >&2
  # Kubernetes shows the end of the log as the reason, and `pulumi up` repeats it.
  grep -E 'SQLSTATE|Exception|ERROR|error:' /tmp/verbose.log | sort -u | head -n 5 >&2 || true
  exit 1
fi

php -r "$2"
