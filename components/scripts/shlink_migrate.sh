# Prepares Shlink's database: tables, migrations, and the API key of this environment.
# Runs in Shlink's image, from /etc/shlink; $1 and $2 are shlink_prepare.php and shlink_api_key.php.
set -eu

php -r "$1"

# The image's entrypoint creates and migrates, and starts no server while SHLINK_RUNTIME is not `rr`.
if ! sh ./docker-entrypoint.sh; then
  # Its installer hides the cause of a failure. Once more, with all that it can say, in long lines.
  tries=0
  until COLUMNS=1000 SHELL_VERBOSITY=3 sh ./docker-entrypoint.sh > /tmp/verbose.log 2>&1; do
    # The installer gives each of its commands ten minutes. The next run goes on where it stood.
    tries=$((tries + 1))
    if [ "$tries" -lt 6 ] && grep -q 'exceeded the timeout' /tmp/verbose.log; then
      echo "the migration goes on after a time limit of Shlink's installer"
      continue
    fi
    # Kubernetes shows the end of the log as the reason, and `pulumi up` repeats it.
    echo "the migration failed:" >&2
    grep -A 3 -E '^ *(ERR +)*\[[A-Za-z\\]+Exception' /tmp/verbose.log | sed 's/<bg=>//g; s/^ *ERR *//; s/ERR  *//; s/^ *//; s/ *$//' |
      grep -v '^--$' | awk '!seen[$0]++' | head -n 12 >&2
    exit 1
  done
fi

php -r "$2"
