<?php

// Gives a hash to the URLs that pods of an older version made after the migration: without one,
// `findIfExists` never finds them (5.1.5, ShortUrlRepository). Runs after the last new pod is Ready.
// Older pods end within $STOP_SECONDS, and may take requests until then.

try {
    $connection = (require '/etc/shlink/config/container.php')->get('em')->getConnection();
    $columns = $connection->createSchemaManager()->listTableColumns('short_urls');
    $empty = $connection->fetchOne('SELECT 1 FROM short_urls LIMIT 1') === false;
    // An image named by its digest may be an older one.
    if ($empty || ! array_key_exists('long_url_hash', $columns)) {
        exit(0);
    }
    sleep((int) getenv('STOP_SECONDS'));
    $filled = $connection->executeStatement(
        "UPDATE short_urls SET long_url_hash = sha256(convert_to(original_url, 'UTF8')) WHERE long_url_hash = ''"
    );
    echo "filled the hash of $filled URLs\n";
} catch (Throwable $error) {
    // The message only: a trace may show arguments, and so a password.
    fwrite(STDERR, "the hashes could not be filled: " . $error->getMessage() . "\n");
    exit(1);
}
