<?php

// Downloads GeoLite's City database to $FOLDER/new.tar.gz, if the one that is served is a day old.
// MaxMind allows 30 downloads per account and day, so an hour lies between two that it answers, also
// over a restart of the container.
// $GEOLITE_LICENSE_KEY is part of the URL, so no error's own text is printed.

$folder = (string) getenv('FOLDER');
$age = fn (string $file): int => is_file($file) ? time() - (int) filemtime($file) : PHP_INT_MAX;
if ($age("$folder/www/version") < 86000 || $age("$folder/attempt") < 3500) {
    exit(3);
}
touch("$folder/attempt");
$query = http_build_query([
    'edition_id' => 'GeoLite2-City',
    'license_key' => (string) getenv('GEOLITE_LICENSE_KEY'),
    'suffix' => 'tar.gz',
]);
// PHP's own streams read no variable for a proxy.
$proxy = parse_url((string) getenv('HTTPS_PROXY'));
$options = isset($proxy['host'])
    ? ['http' => ['proxy' => "tcp://{$proxy['host']}:" . ($proxy['port'] ?? 80)]]
    : [];
if (! @copy(getenv('SOURCE') . "?$query", "$folder/new.tar.gz", stream_context_create($options))) {
    // There may have been redirects, whose status lines come first.
    $lines = preg_grep('{^HTTP/}', $http_response_header ?? []) ?: [];
    if ($lines === []) {
        unlink("$folder/attempt"); // it has counted nothing
    }
    fwrite(STDERR, 'GeoLite could not be downloaded: ' . (end($lines) ?: 'no answer') . "\n");
    exit(1);
}
