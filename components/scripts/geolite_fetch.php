<?php

// Makes $FILE the database that $URL serves, unless it is already. Shlink opens it for each visit, so
// a new one takes the old one's place at once and whole.

$url = (string) getenv('URL');
$file = (string) getenv('FILE');
$version = @file_get_contents("$url/version");
if ($version === false) {
    exit(1);
}
if (is_file($file) && @file_get_contents("$file.version") === $version) {
    exit(0);
}
// What a copy that was cut off lacks: https://maxmind.github.io/MaxMind-DB/#database-metadata
$whole = fn (): bool => str_contains(
    (string) file_get_contents("$file.new", offset: max(0, (int) filesize("$file.new") - 131072)),
    "\xAB\xCD\xEFMaxMind.com",
);
if (! @copy("$url/GeoLite2-City.mmdb", "$file.new") || ! $whole()) {
    fwrite(STDERR, "GeoLite's database could not be fetched whole\n");
    exit(1);
}
rename("$file.new", $file);
file_put_contents("$file.version", $version);
echo "GeoLite's database of $version";
