<?php

// Removes the tables of a first set-up that was cut off between two of them. Shlink takes any table
// of its own for a complete schema (4.6.0, CreateDatabaseCommand), so it would never heal by itself.
// Nothing is removed once a migration is recorded or a single row exists.
// It also says in one line why the database can't be used, which Shlink itself hides.

try {
    $container = require '/etc/shlink/config/container.php';
    $entities = $container->get('em');
    $connection = $entities->getConnection();
    $existing = $connection->createSchemaManager()->listTableNames();

    $tables = [];
    foreach ($entities->getMetadataFactory()->getAllMetadata() as $metadata) {
        $tables[] = $metadata->getTableName();
    }
    // Doctrine's record of finished migrations (Shlink's config/cli-config.php).
    $record = 'migrations';
    $leftover = array_values(array_intersect($tables, $existing));
    if ($leftover === []) {
        exit(0);
    }
    if (in_array($record, $existing, true)) {
        $leftover[] = $record;
    }
    foreach ($leftover as $table) {
        if ((int) $connection->fetchOne('SELECT COUNT(*) FROM (SELECT 1 FROM ' . $connection->quoteIdentifier($table) . ' LIMIT 1) AS t') > 0) {
            exit(0);
        }
    }
    $names = array_map($connection->quoteIdentifier(...), $leftover);
    $connection->executeStatement('DROP TABLE ' . implode(', ', $names) . ' CASCADE');
    echo 'removed ' . count($names) . " empty tables of a first set-up that was cut off\n";
} catch (Throwable $error) {
    // The message only: a trace may show arguments, and so a password.
    fwrite(STDERR, "the database can't be used: " . $error->getMessage() . "\n");
    exit(1);
}
