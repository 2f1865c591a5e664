<?php

// Looks whether the database can be used, and says in one line why not: Shlink itself hides it.
//
// It also removes the tables of a first set-up that was cut off between two of them. Shlink takes any
// table of its own for a complete schema (4.6.0, CreateDatabaseCommand), so that would never heal.
// Nothing is removed once a migration is recorded or a single row exists.

try {
    $container = require '/etc/shlink/config/container.php';
    $entities = $container->get('em');
    $connection = $entities->getConnection();
    if (! $connection->fetchOne("SELECT has_schema_privilege('public', 'CREATE')")) {
        throw new RuntimeException(
            'permission denied for schema public: the user may not create tables there, its grant is missing'
        );
    }
    $existing = $connection->createSchemaManager()->listTableNames();

    // From the schema, not the entities: tables that only join two others belong to it too.
    $metadata = $entities->getMetadataFactory()->getAllMetadata();
    $tables = [];
    foreach ((new Doctrine\ORM\Tools\SchemaTool($entities))->getSchemaFromMetadata($metadata)->getTables() as $table) {
        $tables[] = $table->getName();
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
        $row = $connection->fetchOne('SELECT 1 FROM ' . $connection->quoteIdentifier($table) . ' LIMIT 1');
        if ($row !== false) {
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
