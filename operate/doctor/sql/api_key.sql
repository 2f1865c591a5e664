-- Of an API key's name alone: what the key is, is never asked.
select json_build_object(
  'known', coalesce(bool_or(name = $name), false),
  'valid', coalesce(bool_or(name = $name and accepted), false),
  'before', coalesce(bool_or(name = $before and accepted), false),
  'any', coalesce(bool_or(accepted), false))
from (select name, enabled and coalesce(expiration_date > now(), true) as accepted
      from public.api_keys) as keys
