<?php

// Makes the API key of this environment valid, under a name that is not the key.
// `api-key:initial` would store the key itself as its name, in plain text (Shlink 4.6.0, ApiKeyMeta),
// and only where no other key exists, so a rotated key would never become valid.
// $API_KEY; $API_KEY_ROTATION: its number. The key before it stays valid, older ones are disabled.
// In a database that was restored from another environment, that one's keys end here.

use Shlinkio\Shlink\Core\Model\Renaming;
use Shlinkio\Shlink\Rest\ApiKey\Model\ApiKeyMeta;
use Shlinkio\Shlink\Rest\Service\ApiKeyService;

$key = (string) getenv('API_KEY');
$rotation = (int) getenv('API_KEY_ROTATION');
$name = "deployment-$rotation";

try {
    $container = require '/etc/shlink/config/container.php';
    $service = $container->get(ApiKeyService::class);

    $known = $service->check($key)->apiKey;
    if ($known === null) {
        foreach ($service->listKeys() as $apiKey) {
            if ($apiKey->name === $name) {
                // Names are unique in Shlink, the disabled ones' too.
                $service->renameApiKey(Renaming::fromNames($name, $name . date('-Ymd-His')));
                $service->disableByName($apiKey->name);
                echo "disabled another environment's API key $name\n";
            }
        }
        $service->create(ApiKeyMeta::fromParams(key: $key, name: $name));
        echo "created API key $name\n";
    } elseif ($known->name === $key) {
        $service->renameApiKey(Renaming::fromNames($key, $name));
        echo "renamed the first API key to $name\n";
    }
    foreach ($service->listKeys(enabledOnly: true) as $apiKey) {
        $ours = preg_match('/^deployment-(\d+)$/', (string) $apiKey->name, $number) === 1;
        $rotations = [$rotation - 1, $rotation];
        if ($ours && ! in_array((int) $number[1], $rotations, true)) {
            $service->disableByName($apiKey->name);
            echo "disabled API key {$apiKey->name}\n";
        }
    }
} catch (Throwable $error) {
    // The class only: a message may name the key.
    fwrite(STDERR, "the API key $name could not be made valid: " . get_class($error) . "\n");
    exit(1);
}
