-- What the database of Shlink tells of its tables.
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
      else '' end), '{}')
    from pg_class c where relnamespace = public.oid and relkind in ('r', 'p'))
) from (select 1) as one
left join pg_roles as owner on owner.rolname = $owner
left join pg_namespace as public on public.nspname = 'public'
