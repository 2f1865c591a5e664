"""What the primary of PostgreSQL tells by a local login: who may log in, tables, archiving."""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

from operate.doctor import inside, last_update
from operate.doctor.findings import Environment, Problem, Severity, error_unless, skip
from operate.doctor.pod_problems import GRACE, pods_of
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
    from pg_roles where rolname in ({logins})),
  'system', (
    select coalesce(json_agg(name order by name), '[]')
    from pg_settings where sourcefile like '%postgresql.auto.conf' and name <> {read_only}),
  'own', (
    select coalesce(json_agg(json_build_object(
      'role', r.rolname, 'database', d.datname, 'name', split_part(entry, '=', 1))), '[]')
    from pg_db_role_setting s cross join unnest(setconfig) as entry
    left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
    where (s.setrole = 0 or r.rolname in ({logins}))
      and (s.setdatabase = 0 or d.datname in ({databases}))
      and split_part(entry, '=', 1) <> {read_only}),
  'holders', (
    select coalesce(json_agg(holder), '[]') from (
      select blocker as pid, max(b.usename) as role, count(*) as waiting,
             max(extract(epoch from now() - w.query_start))::int as seconds
      from pg_stat_activity w cross join unnest(pg_blocking_pids(w.pid)) as blocker
      left join pg_stat_activity b on b.pid = blocker
      where w.wait_event_type = 'Lock' and b.wait_event_type is distinct from 'Lock'
        and w.query_start < now() - interval '{lock_seconds} seconds'
      group by blocker order by waiting desc) as holder),
  'slots', (
    select coalesce(json_agg(slot_name order by slot_name), '[]')
    from pg_replication_slots where not active and case when pg_is_in_recovery() then false
      else pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > {slot_bytes} end)
) from pg_stat_archiver
"""
"""Asked in the database `postgres`.

https://www.postgresql.org/docs/16/monitoring-stats.html#MONITORING-PG-STAT-ARCHIVER-VIEW"""

_SCHEMA = """
select json_build_object(
  'role', owner.oid is not null,
  'may_create', coalesce(has_schema_privilege(owner.oid, public.oid, 'CREATE'), false),
  'tables', (
    select coalesce(json_object_agg(relname, case
      when not pg_has_role(owner.oid, relowner, 'USAGE') then 'owner'
      when not (has_table_privilege(owner.oid, c.oid, 'SELECT')
                and has_table_privilege(owner.oid, c.oid, 'INSERT')
                and has_table_privilege(owner.oid, c.oid, 'UPDATE')
                and has_table_privilege(owner.oid, c.oid, 'DELETE')) then 'rights'
      else '' end), '{{}}')
    from pg_class c where relnamespace = public.oid and relkind in ('r', 'p'))
) from (select 1) as one
left join pg_roles as owner on owner.rolname = {owner}
left join pg_namespace as public on public.nspname = 'public'
"""

_KEY = """
select json_build_object(
  'known', coalesce(bool_or(name = {name}), false),
  'valid', coalesce(bool_or(name = {name} and accepted), false),
  'before', coalesce(bool_or(name = {before} and accepted), false),
  'any', coalesce(bool_or(accepted), false))
from (select name, enabled and coalesce(expiration_date > now(), true) as accepted
      from public.api_keys) as keys
"""
"""Of the key's name alone: what the key is, is never asked."""

_OPTIONS = "-c statement_timeout=4s -c search_path=pg_catalog"
"""Of the question's own session, whatever somebody set for the database."""

_NOTHING: tuple[str, ...] = ()
"""What explains a fact that the primary itself tells: it runs, whatever else has failed."""

_TOLD_BEFORE = ("postgres.log", "postgres.unchanged")
"""What may tell the same before: the log of a refusal, and who edited the PostgresCluster."""

_TABLES = ("api_keys", "domains", "migrations", "short_urls", "tags", "visits")
"""Tables of Shlink 4 and 5 without which it serves nothing, or next to nothing."""

_LOCK_SECONDS = 10
"""Seconds that a statement may wait for a lock."""

_SLOT_BYTES = 256 * 1024 * 1024
"""WAL that a slot may keep for a reader that is away; a restart of a replica takes less."""

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
        r"FATAL: .*(?:too many clients|connection slots are reserved)",
        "all its connections are in use",
        "postgres-no-connections",
    ),
    (
        r'FATAL: .*too many connections for role "({logins})"',
        "the role {login} may open no more connections: its CONNECTION LIMIT is reached",
        "postgres-login-refused",
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
        read_only=_quoted("default_transaction_read_only"),
        lock_seconds=_LOCK_SECONDS,
        slot_bytes=_SLOT_BYTES,
    )
    ask = environment.view.once(("psql",), lambda: _ask(environment, "postgres", question))
    return await ask


async def _schema(environment: Environment) -> Object | Problem | None:
    """What the database of Shlink tells, asked once for all checks."""
    owned = _owned(environment)
    if owned is None:
        return None
    owner, database = owned
    question = _SCHEMA.format(owner=_quoted(owner))
    ask = environment.view.once(("psql", database), lambda: _ask(environment, database, question))
    return await ask


def _owned(environment: Environment) -> tuple[str, str] | None:
    """The role that owns Shlink's tables, and their database."""
    for user in _users(environment):
        if user.get("databases"):
            return str(user["name"]), str(user["databases"][0])
    return None


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
    connection = f"dbname={_quoted(database)} options={_quoted(_OPTIONS)}"
    command = ("psql", "-X", "-A", "-t", "-q", "-d", connection, "-c", line)
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
    before = await last_update.applied(environment)
    closed = list(_roles(environment, told, pod))
    if before.as_declared(declared_cluster(environment)):
        closed = [*_databases(environment, told, pod), *closed]
    problems = [*closed, *_refusals(environment, told)][:1]
    return [dataclasses.replace(problem, causes=_TOLD_BEFORE) for problem in problems]


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


def _psql(environment: Environment, pod: str, *statements: str, database: str = "") -> str:
    """A command for a person who may run one in the database's pod."""
    namespace, _ = place(environment)
    where = f" -d {shlex.quote(database)}" if database else ""
    asked = "".join(f" -c {shlex.quote(statement)}" for statement in statements)
    return environment.kubectl_in(namespace, f"exec {pod} -c database -- psql{where}{asked}")


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
                return [Problem(message, page, _remedy(environment, page, name, login))]
    return []


def _remedy(environment: Environment, page: str, pod: str, login: str) -> str:
    """PGO sets a password only when its Secret changes, so a changed one needs a rotation."""
    if page == "postgres-login-refused":
        return _psql(environment, pod, f'ALTER ROLE "{login}" CONNECTION LIMIT -1')
    if page != "postgres-password-refused":
        return environment.make("up")
    number = environment.declared.settings.rotation.database + 1
    stack = environment.declared.stack
    return f"pulumi config set --stack {stack} --path shlink:rotation.database {number}"


def _login_names(environment: Environment, owner: str) -> list[str]:
    """The logins of an owner's, which take turns (DatabaseUser in components/postgres)."""
    every = [str(user["name"]) for user in _users(environment)]
    return [name for name in every if name.startswith(owner)]


async def grant(environment: Environment) -> list[Problem]:
    """Shlink's role may create its tables, which only its next migration would notice."""
    told = await _schema(environment)
    if told is None or isinstance(told, Problem):
        return [told] if told else []
    if told["may_create"]:
        return []
    reason = "the grant is missing" if told["role"] else "its role does not exist"
    text = f"PostgreSQL: Shlink's user may not create tables in schema public: {reason}"
    return [Problem(text, "postgres-grant-missing", environment.make("refresh"), causes=_NOTHING)]


async def tables(environment: Environment) -> list[Problem]:
    """Shlink's tables are there and its own, and nobody locks them for long."""
    server, told = await _server(environment), await _schema(environment)
    owned, leaders = _owned(environment), await primaries(environment)
    if server is None or told is None or owned is None or not leaders:
        return []
    if isinstance(server, Problem) or isinstance(told, Problem):
        return [answer for answer in (server, told) if isinstance(answer, Problem)][:1]
    tables: Mapping[str, str] = told["tables"]
    states = {name: tables.get(name) for name in _TABLES}
    ask = partial(_psql, environment, leaders[0]["metadata"]["name"], database=owned[1])
    return [
        *_missing(states, ask),
        *_closed(states, owned[0], ask),
        *_locked(listed(server, "holders"), ask),
    ]


def _missing(states: Mapping[str, str | None], ask: Callable[..., str]) -> Iterator[Problem]:
    """Tables that are gone. None of them is there before the first migration."""
    missing = [name for name, state in states.items() if state is None]
    if missing and len(missing) < len(states):
        text = f"PostgreSQL: tables of Shlink do not exist: {', '.join(missing)}"
        yield Problem(text, "postgres-table-missing", ask("\\dt *.*"), causes=_NOTHING)


def _closed(
    states: Mapping[str, str | None], owner: str, ask: Callable[..., str]
) -> Iterator[Problem]:
    """Tables that Shlink's role may not use, or not change in a migration."""
    statements: list[str] = []
    closed = {name: state for name, state in states.items() if state}
    for name, state in closed.items():
        if state == "owner":
            statements.append(f'ALTER TABLE public.{name} OWNER TO "{owner}"')
        statements.append(f'GRANT ALL ON public.{name} TO "{owner}"')
    if closed:
        what = "does not own" if "owner" in closed.values() else "may not read and write"
        text = f"PostgreSQL: Shlink's role {owner} {what} its tables: {', '.join(closed)}"
        yield Problem(text, "postgres-table-closed", ask(*statements), causes=_NOTHING)


def _locked(holders: Sequence[Object], ask: Callable[..., str]) -> Iterator[Problem]:
    """A session whose lock keeps others waiting; somebody may have left it open by hand."""
    for holder in holders[:1]:
        pid, role = int(holder["pid"]), holder.get("role")
        who = f"session {pid} of role {role}" if pid else "a prepared transaction"
        text = (
            f"PostgreSQL: {holder['waiting']} statements wait for a lock of {who}, "
            f"the first for {holder['seconds']} s"
        )
        statement = f"SELECT pg_terminate_backend({pid})" if pid else "TABLE pg_prepared_xacts"
        yield Problem(text, "postgres-locked", ask(statement), causes=_NOTHING)


async def settings(environment: Environment) -> list[Problem]:
    """Nobody has set what PGO does not know of, and no slot keeps WAL for a reader that is gone."""
    told, leaders = await _server(environment), await primaries(environment)
    if told is None or isinstance(told, Problem) or not leaders:
        return [told] if isinstance(told, Problem) else []
    pod = str(leaders[0]["metadata"]["name"])
    problems: list[Problem] = []
    if told["system"]:
        names = ", ".join(told["system"])
        resets = [f"ALTER SYSTEM RESET {name}" for name in told["system"]]
        remedy = _psql(environment, pod, *resets, "SELECT pg_reload_conf()")
        problems.append(_set_by_hand(f"ALTER SYSTEM has set {names}", remedy))
    for entry in listed(told, "own"):
        role, database, name = entry.get("role"), entry.get("database"), entry["name"]
        who = f'ROLE "{role}"' if role else "ROLE ALL"
        where = f' IN DATABASE "{database}"' if database and role else ""
        if database and not role:
            who = f'DATABASE "{database}"'
        remedy = _psql(environment, pod, f"ALTER {who}{where} RESET {name}")
        problems.append(_set_by_hand(f"ALTER {who}{where} has set {name}", remedy))
    for slot in told["slots"]:
        text = (
            f"PostgreSQL: nobody reads the replication slot {slot}, which keeps WAL for its reader"
        )
        remedy = _psql(environment, pod, f"SELECT pg_drop_replication_slot({_quoted(slot)})")
        problems.append(Problem(text, "postgres-slot-unread", remedy, severity=Severity.WARNING))
    return problems


def _set_by_hand(what: str, remedy: str) -> Problem:
    text, warning = f"PostgreSQL: {what}, of which PGO does not know", Severity.WARNING
    return Problem(
        text,
        "postgres-settings-changed",
        remedy,
        severity=warning,
        causes=_NOTHING,
        may_explain=True,
    )


async def api_key(environment: Environment) -> list[Problem]:
    """Shlink accepts the API key of this environment, as far as its name tells."""
    told, owned = await _schema(environment), _owned(environment)
    leaders = await primaries(environment)
    if told is None or isinstance(told, Problem) or owned is None or not leaders:
        return [told] if isinstance(told, Problem) else []
    if "api_keys" not in told["tables"]:
        return []  # Another check's: it is gone, or not there yet.
    number = environment.declared.settings.rotation.api_key
    name, before = f"deployment-{number}", f"deployment-{number - 1}"
    question = _KEY.format(name=_quoted(name), before=_quoted(before))
    answer = await _ask(environment, owned[1], question)
    if answer is None or isinstance(answer, Problem):
        return [answer] if answer else []
    # A raised number that no update has applied yet: clients still have the key before.
    if answer["valid"] or (answer["before"] and not answer["known"]):
        return []
    raised = f"pulumi config set --stack {environment.declared.stack} --path shlink:rotation.apiKey"
    if not answer["known"]:
        text = f"Shlink has no API key of the name {name}, which this environment's should have"
        # Somebody may have given it another name; Shlink has nothing against that.
        severity = Severity.WARNING if answer["any"] else Severity.ERROR
        remedy, page = f"{raised} {number + 1}", "shlink-api-key-refused"
        return [Problem(text, page, remedy, severity=severity, causes=_NOTHING)]
    text = f"Shlink refuses its API key {name}: it is disabled or has expired in the database"
    mend = f"UPDATE api_keys SET enabled = true, expiration_date = NULL WHERE name = '{name}'"  # noqa: S608 -- for a person, of a number
    remedy = _psql(environment, leaders[0]["metadata"]["name"], mend, database=owned[1])
    return [Problem(text, "shlink-api-key-refused", remedy, causes=_NOTHING)]


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
