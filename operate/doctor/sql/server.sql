-- What the primary tells of itself, asked in the database `postgres`. A lock counts after 10 s, a
-- slot without a reader when it keeps 256 MiB of WAL: a restart of a replica takes less.
-- https://www.postgresql.org/docs/16/monitoring-stats.html#MONITORING-PG-STAT-ARCHIVER-VIEW
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
    select coalesce(json_object_agg(datname, datallowconn and datconnlimit <> 0), '{}')
    from pg_database where datname in ($databases)),
  'logins', (
    select coalesce(json_object_agg(rolname, case
      when not rolcanlogin then 'LOGIN'
      when rolvaliduntil <= now() then 'VALID UNTIL'
      when rolconnlimit = 0 then 'CONNECTION LIMIT'
      when not pg_has_role(oid, (select oid from pg_roles where rolname = $owner), 'MEMBER')
        then 'MEMBER'
      else '' end), '{}')
    from pg_roles where rolname in ($logins)),
  'system', (
    select coalesce(json_agg(name order by name), '[]')
    from pg_settings where sourcefile like '%postgresql.auto.conf' and name <> 'default_transaction_read_only'),
  'own', (
    select coalesce(json_agg(json_build_object(
      'role', r.rolname, 'database', d.datname, 'name', split_part(entry, '=', 1))), '[]')
    from pg_db_role_setting s cross join unnest(setconfig) as entry
    left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
    where (s.setrole = 0 or r.rolname in ($logins))
      and (s.setdatabase = 0 or d.datname in ($databases))
      and split_part(entry, '=', 1) <> 'default_transaction_read_only'),
  'holders', (
    select coalesce(json_agg(holder), '[]') from (
      select blocker as pid, max(b.usename) as role, count(*) as waiting,
             max(extract(epoch from now() - w.query_start))::int as seconds
      from pg_stat_activity w cross join unnest(pg_blocking_pids(w.pid)) as blocker
      left join pg_stat_activity b on b.pid = blocker
      where w.wait_event_type = 'Lock' and b.wait_event_type is distinct from 'Lock'
        and w.query_start < now() - interval '10 seconds'
      group by blocker order by waiting desc) as holder),
  'slots', (
    select coalesce(json_agg(slot_name order by slot_name), '[]')
    from pg_replication_slots where not active and case when pg_is_in_recovery() then false
      else pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > 268435456 end)
) from pg_stat_archiver
