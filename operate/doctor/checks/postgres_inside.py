"""What the primary of PostgreSQL tells by a local login: who may log in, tables, archiving.

A check passes where there is no primary to ask: another one tells why.
"""

import dataclasses
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from string import Template
from typing import cast

from operate.doctor import inside
from operate.doctor.findings import Environment, Problem, Severity, error_unless
from operate.doctor.last_update import last_update
from operate.doctor.pod_problems import GRACE, pods_of
from operate.view import AbsentError, NoAnswerError, Object, SkippedError, listed, names

from .postgres_cluster import declared_cluster, instances, place, primaries

_OPTIONS = "-c statement_timeout=4s -c search_path=pg_catalog"
"""Of the question's own session, whatever somebody set for the database."""

_NOTHING: tuple[str, ...] = ()
"""What explains a fact that the primary itself tells: it runs, whatever else has failed."""

_TOLD_BEFORE = ("postgres.log", "postgres.unchanged")
"""What may tell the same before: the log of a refusal, and who edited the PostgresCluster."""

_TABLES = ("api_keys", "domains", "migrations", "short_urls", "tags", "visits")
"""Tables of Shlink 4 and 5 without which it serves nothing, or next to nothing."""

_REFUSED, _PASSWORD = "postgres-login-refused", "postgres-password-refused"

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
        _REFUSED,
    ),
    (
        r'FATAL: .*password authentication failed for user "({logins})"',
        "it refuses the password of {login}",
        _PASSWORD,
    ),
    (
        r'FATAL: .*no pg_hba.conf entry for .*user "({logins})"',
        "its pg_hba.conf has no rule that lets {login} in",
        _PASSWORD,
    ),
)
"""What PostgreSQL's log shows, what that means, and its page. Only our own sentence is printed."""


@cache
def _sql(name: str) -> Template:
    lines = (Path(__file__).parents[1] / "sql" / f"{name}.sql").read_text().splitlines()
    return Template(" ".join(line.strip() for line in lines if not line.startswith("--")))


async def _server(environment: Environment) -> Object:
    """What the primary tells of itself, asked once for all checks. Raises LookError."""
    owner, databases = _owner(environment)
    question = _sql("server").substitute(
        owner=_quoted(owner),
        databases=", ".join(map(_quoted, databases)),
        logins=", ".join(map(_quoted, _logins_of(environment, owner))),
    )
    ask = environment.view.once(("psql",), lambda: _answer(environment, "postgres", question))
    return await ask


async def _schema(environment: Environment) -> Object:
    """What the database of Shlink tells, asked once for all checks. Raises LookError."""
    owner, (database, *_) = _owner(environment)
    question = _sql("schema").substitute(owner=_quoted(owner))
    key = ("psql", database)
    return await environment.view.once(key, lambda: _answer(environment, database, question))


def _owner(environment: Environment) -> tuple[str, list[str]]:
    """The role that owns Shlink's tables, and its databases, the first of them Shlink's."""
    for user in _users(environment):
        if user.get("databases"):
            return str(user["name"]), list(user["databases"])
    raise AbsentError("no user of the PostgresCluster has a database")


def _users(environment: Environment) -> list[Object]:
    return listed(declared_cluster(environment), "spec", "users")


def _logins_of(environment: Environment, owner: str) -> list[str]:
    """The logins of an owner's, which take turns (DatabaseUser in components/postgres)."""
    logins = [str(user["name"]) for user in _users(environment)]
    return [name for name in logins if name.startswith(owner)]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _primary(environment: Environment) -> str:
    """The name of the primary's pod. Raises AbsentError: there is not exactly one."""
    leaders = await primaries(environment)
    if len(leaders) != 1:
        raise AbsentError("there is no primary to ask")
    return str(leaders[0]["metadata"]["name"])


async def _answer(environment: Environment, database: str, question: str) -> Object:
    """What the primary's psql tells, by a local login. Raises LookError."""
    namespace, _ = place(environment)
    pod = await _primary(environment)
    connection = f"dbname={_quoted(database)} options={_quoted(_OPTIONS)}"
    command = ("psql", "-X", "-A", "-t", "-q", "-d", connection, "-c", question)
    try:
        text = await inside.output(environment.view, namespace, pod, "database", command)
    except NoAnswerError as error:
        # Its own checks tell why it does not answer.
        raise SkippedError(str(error)) from None
    return cast("Object", json.loads(text))


def _psql(environment: Environment, pod: str, *statements: str, database: str = "") -> str:
    """A command for a person who may run one in the database's pod."""
    namespace, _ = place(environment)
    where = f" -d {shlex.quote(database)}" if database else ""
    commands = "".join(f" -c {shlex.quote(statement)}" for statement in statements)
    return environment.kubectl_in(namespace, f"exec {pod} -c database -- psql{where}{commands}")


async def logins(environment: Environment) -> AsyncIterator[Problem]:
    """The first reason why Shlink can't log in to its database, or may not write there."""
    server, pod = await _server(environment), await _primary(environment)
    problems = [*_roles(environment, server, pod), *_refusals(environment, server)]
    if (await last_update(environment)).is_applied(declared_cluster(environment)):
        problems = [*_databases(environment, server, pod), *problems]
    for problem in problems[:1]:
        yield dataclasses.replace(problem, causes=_TOLD_BEFORE)


def _databases(environment: Environment, server: Object, pod: str) -> Iterator[Problem]:
    for user in _users(environment):
        for database in user.get("databases", []):
            text = f"PostgreSQL: the database {database}"
            if database not in server["databases"]:
                yield Problem(f"{text} does not exist", "postgres-database-missing")
            elif not server["databases"][database]:
                option = "ALLOW_CONNECTIONS true CONNECTION LIMIT -1"
                remedy = _psql(environment, pod, f'ALTER DATABASE "{database}" {option}')
                yield Problem(f"{text} takes no connections", _REFUSED, remedy)


def _roles(environment: Environment, server: Object, pod: str) -> Iterator[Problem]:
    for login, closed in server["logins"].items():
        if closed:
            meaning, option = _CLOSED[closed]
            remedy = ""
            if option:
                remedy = _psql(environment, pod, f'ALTER ROLE "{login}" {option}')
            yield Problem(f"PostgreSQL: the role {login} {meaning}", _REFUSED, remedy)


def _refusals(environment: Environment, server: Object) -> Iterator[Problem]:
    """Why the server itself lets nobody in, or refuses what they ask."""
    if server["free"] <= 0:
        namespace, name = place(environment)
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        text = "PostgreSQL: all its connections are in use"
        yield Problem(text, "postgres-no-connections", remedy)
    if server["read_only"]:
        text = "PostgreSQL: every transaction is read-only (default_transaction_read_only)"
        yield Problem(text, "postgres-read-only")


async def log(environment: Environment) -> AsyncIterator[Problem]:
    """The last minute of PostgreSQL's log, which tells why it lets nobody in."""
    view, (namespace, _) = environment.view, place(environment)
    pods, (owner, _) = await pods_of(view, instances(environment)), _owner(environment)
    try:
        allowed = await view.may("get", "pods", "log", namespace)
    except NoAnswerError as error:
        raise SkippedError(str(error)) from None
    if pods and not allowed:
        raise SkippedError(f"it takes get on pods/log in namespace {namespace}; {inside.RIGHTS}")
    patterns = "|".join(_logins_of(environment, owner))
    for name in names(pods):
        path = f"v1/pods/{name}/log?container=database&sinceSeconds={_LOG_SECONDS}"
        text = str((await view.reply(path, namespace)).body)
        for pattern, meaning, page in _LOG:
            match = re.search(pattern.format(logins=patterns), text)
            if match:
                login = match[1] if match.groups() else ""
                message = f"PostgreSQL ({name}): {meaning.format(login=login)}"
                yield Problem(message, page, _remedy(environment, page, name, login))
                return


def _remedy(environment: Environment, page: str, pod: str, login: str) -> str:
    """PGO sets a password only when its Secret changes, so a changed one needs a rotation."""
    if page == _REFUSED:
        return _psql(environment, pod, f'ALTER ROLE "{login}" CONNECTION LIMIT -1')
    if page != _PASSWORD:
        return environment.make("up")
    number = environment.declared.settings.rotation.database + 1
    return environment.setting("rotation.database", number)


async def grant(environment: Environment) -> AsyncIterator[Problem]:
    """Shlink's role may create its tables, which only its next migration would notice."""
    schema = await _schema(environment)
    if not schema["may_create"]:
        reason = "the grant is missing" if schema["role"] else "its role does not exist"
        text = f"PostgreSQL: Shlink's user may not create tables in schema public: {reason}"
        yield Problem(text, "postgres-grant-missing", causes=_NOTHING)


async def tables(environment: Environment) -> AsyncIterator[Problem]:
    """Shlink's tables are there and its own, and nobody locks them for long."""
    server, schema = await _server(environment), await _schema(environment)
    owner, (database, *_) = _owner(environment)
    states = {name: cast("str | None", schema["tables"].get(name)) for name in _TABLES}
    ask = partial(_psql, environment, await _primary(environment), database=database)
    problems = [*_missing(states, ask), *_closed(states, owner, ask)]
    problems += _locked(listed(server, "holders"), ask)
    for problem in problems:
        yield dataclasses.replace(problem, causes=_NOTHING)


def _missing(states: Mapping[str, str | None], ask: Callable[..., str]) -> Iterator[Problem]:
    """Tables that are gone. None of them is there before the first migration."""
    missing = [name for name, state in states.items() if state is None]
    if missing and len(missing) < len(states):
        text = f"PostgreSQL: tables of Shlink do not exist: {', '.join(missing)}"
        yield Problem(text, "postgres-table-missing", ask("\\dt *.*"))


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
        yield Problem(text, "postgres-table-closed", ask(*statements))


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
        yield Problem(text, "postgres-locked", ask(statement))


async def settings(environment: Environment) -> AsyncIterator[Problem]:
    """Nobody has set what PGO does not know of, and no slot keeps WAL for a reader that is gone."""
    server, pod = await _server(environment), await _primary(environment)
    by_hand: dict[str, str] = {}
    if server["system"]:
        resets = [f"ALTER SYSTEM RESET {name}" for name in server["system"]]
        remedy = _psql(environment, pod, *resets, "SELECT pg_reload_conf()")
        by_hand[f"ALTER SYSTEM has set {', '.join(server['system'])}"] = remedy
    for entry in listed(server, "own"):
        role, database, name = entry.get("role"), entry.get("database"), entry["name"]
        whose = f'ROLE "{role}"' if role else "ROLE ALL"
        if database:
            whose = f'{whose} IN DATABASE "{database}"' if role else f'DATABASE "{database}"'
        remedy = _psql(environment, pod, f"ALTER {whose} RESET {name}")
        by_hand[f"ALTER {whose} has set {name}"] = remedy
    for change, remedy in by_hand.items():
        yield Problem(
            f"PostgreSQL: {change}, of which PGO does not know",
            "postgres-settings-changed",
            remedy,
            severity=Severity.WARNING,
            causes=_NOTHING,
            may_explain=True,
        )
    for slot in server["slots"]:
        text = f"PostgreSQL: nobody reads the replication slot {slot}, which keeps WAL for its"
        remedy = _psql(environment, pod, f"SELECT pg_drop_replication_slot({_quoted(slot)})")
        warning = Severity.WARNING
        yield Problem(f"{text} reader", "postgres-slot-unread", remedy, severity=warning)


async def api_key(environment: Environment) -> AsyncIterator[Problem]:
    """Shlink accepts the API key of this environment, as far as its name tells."""
    schema, (_, (database, *_)) = await _schema(environment), _owner(environment)
    if "api_keys" not in schema["tables"]:
        return  # Another check's: it is gone, or not there yet.
    number = environment.declared.settings.rotation.api_key
    name, before = f"deployment-{number}", f"deployment-{number - 1}"
    question = _sql("api_key").substitute(name=_quoted(name), before=_quoted(before))
    key = await _answer(environment, database, question)
    page = "shlink-api-key-refused"
    # A raised number that no update has applied yet: clients still have the key before.
    if key["valid"] or (key["before"] and not key["known"]):
        return
    if not key["known"]:
        text = f"Shlink has no API key of the name {name}, which this environment's should have"
        # Somebody may have given it another name; Shlink has nothing against that.
        severity = Severity.WARNING if key["any"] else Severity.ERROR
        remedy = environment.setting("rotation.apiKey", number + 1)
        yield Problem(text, page, remedy, severity=severity, causes=_NOTHING)
        return
    text = f"Shlink refuses its API key {name}: it is disabled or has expired in the database"
    mend = f"UPDATE api_keys SET enabled = true, expiration_date = NULL WHERE name = '{name}'"  # noqa: S608 -- for a person, of a number
    remedy = _psql(environment, await _primary(environment), mend, database=database)
    yield Problem(text, page, remedy, causes=_NOTHING)


async def archiving(environment: Environment) -> AsyncIterator[Problem]:
    """WAL is archived. A repository can be there and be full, or refuse the write."""
    server, (namespace, name) = await _server(environment), place(environment)
    page = "postgres-archiving-failing"
    if not server["archiving"]:
        yield Problem("PostgreSQL archives no WAL: archive_mode is off", page)
    elif server["failing"]:
        text = "PostgreSQL can't archive its WAL; the oldest file waits for"
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        severity = error_unless(changing=server["waiting"] <= GRACE)
        yield Problem(f"{text} {server['waiting']} s", page, remedy, severity=severity)
