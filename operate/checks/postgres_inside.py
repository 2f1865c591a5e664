"""What the primary of PostgreSQL tells by a local login: who may log in, the grant, archiving."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import cast

from operate import inside
from operate.findings import Environment, Problem, error_unless, skip
from operate.pods import GRACE, pods_of
from operate.view import NoAnswerError, Object, listed

from .postgres_cluster import declared_cluster, instances, place, primaries

_SERVER = """
select json_build_object(
  'failing', coalesce(last_failed_time, '-infinity') > coalesce(last_archived_time, '-infinity'),
  'waiting', (select coalesce(max(extract(epoch from now() - modification)), 0)::int
              from pg_ls_archive_statusdir() where name like '%.ready'),
  'archiving', current_setting('archive_mode') <> 'off',
  'read_only', current_setting('default_transaction_read_only') = 'on'
               or exists (select from pg_db_role_setting
                          where 'default_transaction_read_only=on' = any(setconfig)),
  'free', current_setting('max_connections')::int
          - current_setting('superuser_reserved_connections')::int
          - (select count(*) from pg_stat_activity where backend_type = 'client backend'),
  'databases', (
    select coalesce(json_object_agg(datname, datallowconn and datconnlimit <> 0), '{{}}')
    from pg_database where datname in ({databases})),
  'logins', (
    select coalesce(json_object_agg(rolname, case
      when not rolcanlogin then 'LOGIN'
      when rolvaliduntil <= now() then 'VALID UNTIL'
      when rolconnlimit = 0 then 'CONNECTION LIMIT'
      when not pg_has_role(oid, (select oid from pg_roles where rolname = {owner}), 'MEMBER')
        then 'MEMBER'
      else '' end), '{{}}')
    from pg_roles where rolname in ({logins}))
) from pg_stat_archiver
"""
"""Asked in the database `postgres`.

https://www.postgresql.org/docs/16/monitoring-stats.html#MONITORING-PG-STAT-ARCHIVER-VIEW"""
_SCHEMA = """
select json_build_object('may_create',
  (select has_schema_privilege(oid, 'public', 'CREATE') from pg_roles where rolname = {owner}))
"""
_CLOSED = {
    "LOGIN": ("may not log in", "LOGIN"),
    "VALID UNTIL": ("may not log in any more: its time is over", "VALID UNTIL 'infinity'"),
    "CONNECTION LIMIT": ("may open no connection", "CONNECTION LIMIT -1"),
    "MEMBER": ("does not belong to the owner of Shlink's tables", ""),
}
"""What keeps a role out, and the option of ALTER ROLE that lets it in, if not a grant."""
_LOG_SECONDS = 60
"""How long a line of the log counts. Each probe of a Shlink pod logs in, every ten seconds."""
_LOG = (
    (r"No space left on device", "its volume is full", "volume-filling"),
    (
        r"FATAL: .*(?:too many clients|connection slots are reserved|too many connections for)",
        "all its connections are in use",
        "postgres-no-connections",
    ),
    (
        r'FATAL: .*password authentication failed for user "({logins})"',
        "it refuses the password of {login}",
        "postgres-password-refused",
    ),
    (
        r'FATAL: .*no pg_hba.conf entry for .*user "({logins})"',
        "its pg_hba.conf has no rule that lets {login} in",
        "postgres-password-refused",
    ),
)
"""What PostgreSQL's log says, what that means, and its page. Only our own sentence is printed."""


async def _server(environment: Environment) -> Object | Problem | None:
    """What the primary tells of itself, asked once for all checks. None: nobody can be asked."""
    users = [user for user in _users(environment) if user.get("databases")]
    if not users:
        return None
    owner, databases = str(users[0]["name"]), list(users[0]["databases"])
    logins = _login_names(environment, owner)
    question = _SERVER.format(
        owner=_quoted(owner),
        databases=", ".join(_quoted(name) for name in databases),
        logins=", ".join(_quoted(name) for name in logins),
    )
    ask = environment.view.once(("psql",), lambda: _ask(environment, "postgres", question))
    return await ask


async def _schema(environment: Environment) -> Object | Problem | None:
    """What the database of Shlink tells."""
    users = [user for user in _users(environment) if user.get("databases")]
    if not users:
        return None
    question = _SCHEMA.format(owner=_quoted(str(users[0]["name"])))
    return await _ask(environment, str(users[0]["databases"][0]), question)


def _users(environment: Environment) -> list[Object]:
    return listed(declared_cluster(environment), "spec", "users")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _ask(environment: Environment, database: str, question: str) -> Object | Problem | None:
    """What the primary's psql tells, by a local login. None: there is no primary to ask."""
    leaders = await primaries(environment)
    if len(leaders) != 1:
        return None
    line = " ".join(question.split())
    command = ("psql", "-X", "-A", "-t", "-q", "-d", database, "-c", line)
    namespace, _ = place(environment)
    try:
        text = await inside.output(
            environment.view, namespace, leaders[0]["metadata"]["name"], "database", command
        )
    except NoAnswerError as error:
        return skip(str(error))
    return cast("Object", json.loads(text))


async def logins(environment: Environment) -> list[Problem]:
    """Shlink can log in to its database, and may write there."""
    told = await _server(environment)
    if told is None or isinstance(told, Problem):
        return [told] if told else []
    leaders = await primaries(environment)
    pod = str(leaders[0]["metadata"]["name"])
    closed = [*_databases(environment, told, pod), *_roles(environment, told, pod)]
    return [*closed, *_refusals(environment, told)][:1]


def _databases(environment: Environment, told: Object, pod: str) -> Iterator[Problem]:
    for user in _users(environment):
        for database in user.get("databases", []):
            if database not in told["databases"]:
                text = f"PostgreSQL: the database {database} does not exist"
                yield Problem(text, "postgres-database-missing", environment.make("refresh"))
            elif not told["databases"][database]:
                text = f"PostgreSQL: the database {database} takes no connections"
                statement = (
                    f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true CONNECTION LIMIT -1'
                )
                remedy = _psql(environment, pod, statement)
                yield Problem(text, "postgres-login-refused", remedy)


def _roles(environment: Environment, told: Object, pod: str) -> Iterator[Problem]:
    for login, closed in told["logins"].items():
        if closed:
            meaning, option = _CLOSED[closed]
            remedy = environment.make("refresh")
            if option:
                remedy = _psql(environment, pod, f'ALTER ROLE "{login}" {option}')
            text = f"PostgreSQL: the role {login} {meaning}"
            yield Problem(text, "postgres-login-refused", remedy)


def _psql(environment: Environment, pod: str, statement: str) -> str:
    """A command for a person who may run one in the database's pod."""
    namespace, _ = place(environment)
    command = f"exec {pod} -c database -- psql -c {shlex.quote(statement)}"
    return environment.kubectl_in(namespace, command)


def _refusals(environment: Environment, told: Object) -> Iterator[Problem]:
    """Why the server itself lets nobody in, or refuses what they ask."""
    if told["free"] <= 0:
        namespace, name = place(environment)
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        yield Problem(
            "PostgreSQL: all its connections are in use", "postgres-no-connections", remedy
        )
    if told["read_only"]:
        text = "PostgreSQL: every transaction is read-only (default_transaction_read_only)"
        yield Problem(text, "postgres-read-only", environment.make("refresh"))


async def log(environment: Environment) -> list[Problem]:
    """The last minute of PostgreSQL's log, which tells why it lets nobody in, names no fault."""
    view = environment.view
    namespace, _ = place(environment)
    pods = await pods_of(view, instances(environment))
    owners = [user for user in _users(environment) if user.get("databases")]
    if not pods or not owners:
        return []
    if not await view.may("get", "pods", "log", namespace):
        return [
            skip(f"it takes get on pods/log in namespace {namespace}; {inside.RIGHTS}"),
        ]
    logins = "|".join(_login_names(environment, str(owners[0]["name"])))
    for pod in pods:
        name = pod["metadata"]["name"]
        place_of_log = f"v1/pods/{name}/log?container=database&sinceSeconds={_LOG_SECONDS}"
        text = str((await view.reply(place_of_log, namespace)).body)
        for pattern, meaning, page in _LOG:
            match = re.search(pattern.format(logins=logins), text)
            if match:
                login = match[1] if match.groups() else ""
                message = f"PostgreSQL ({name}): {meaning.format(login=login)}"
                return [Problem(message, page, _remedy(environment, page))]
    return []


def _remedy(environment: Environment, page: str) -> str:
    """PGO sets a password only when its Secret changes, so a changed one needs a rotation."""
    if page != "postgres-password-refused":
        return environment.make("up")
    number = environment.declared.settings.rotation.database + 1
    stack = environment.declared.stack
    return f"pulumi config set --stack {stack} --path shlink:rotation.database {number}"


def _login_names(environment: Environment, owner: str) -> list[str]:
    """The logins of an owner's, which take turns: components/postgres.py, DatabaseUser."""
    every = [str(user["name"]) for user in _users(environment)]
    return [name for name in every if name.startswith(owner)]


async def grant(environment: Environment) -> list[Problem]:
    """Shlink's role may create its tables, which only its next migration would notice."""
    told = await _schema(environment)
    if told is None or isinstance(told, Problem):
        return [told] if told else []
    if told["may_create"]:
        return []
    reason = "its role does not exist" if told["may_create"] is None else "the grant is missing"
    text = f"PostgreSQL: Shlink's user may not create tables in schema public: {reason}"
    return [Problem(text, "postgres-grant-missing", environment.make("refresh"))]


async def archiving(environment: Environment) -> list[Problem]:
    """WAL is archived. A repository can be there and be full, or refuse the write."""
    told = await _server(environment)
    if told is None or isinstance(told, Problem):
        return [told] if told else []
    namespace, name = place(environment)
    if not told["archiving"]:
        text = "PostgreSQL archives no WAL: archive_mode is off"
        return [Problem(text, "postgres-archiving-failing", environment.make("refresh"))]
    if not told["failing"]:
        return []
    return [
        Problem(
            f"PostgreSQL can't archive its WAL; the oldest file waits for {told['waiting']} s",
            "postgres-archiving-failing",
            environment.kubectl_in(namespace, f"describe postgrescluster {name}"),
            severity=error_unless(changing=told["waiting"] <= GRACE),
        )
    ]
