<?php

// Imports links as `short-url:import` does, and asks nothing. $IMPORT: the source, and the answers to
// that command's questions (Shlink 4.6.0, shlink-importer, *ParamsConsoleHelper). A CSV stands in
// /import in pieces, gzipped. Each 100 links are a transaction: what came stays when a later link
// fails. Ends with 0 if all that was read is here.

use Shlinkio\Shlink\Importer\Exception\ImportException;
use Shlinkio\Shlink\Importer\Http\InvalidRequestException;
use Shlinkio\Shlink\Importer\ImportedLinksProcessorInterface;
use Shlinkio\Shlink\Importer\Model\ImportedShlinkUrl;
use Shlinkio\Shlink\Importer\Model\ImportedShlinkUrlMeta;
use Shlinkio\Shlink\Importer\Model\ImportResult;
use Shlinkio\Shlink\Importer\Sources\ImportSource;
use Shlinkio\Shlink\Importer\Strategy\ImporterStrategyManager;
use Symfony\Component\Console\Input\ArrayInput;
use Symfony\Component\Console\Output\NullOutput;
use Symfony\Component\Console\Style\SymfonyStyle;

// Before the class, whose parent it loads.
$container = require '/etc/shlink/config/container.php';

// Takes what Shlink's importer would print, and counts it.
final class Counts extends SymfonyStyle
{
    private array $now = ['links' => 0, 'new' => 0, 'present' => 0, 'visits' => 0, 'of' => 0, 'orphans' => 0, 'left' => []];
    private array $kept = [];
    private array $seen = [];
    private ?ImportedShlinkUrl $url = null;

    public function __construct(private readonly Doctrine\DBAL\Connection $connection, private readonly bool $visits)
    {
        parent::__construct(new ArrayInput([]), new NullOutput());
        $this->keep();
    }

    // The next links, without those that the importer would spoil, or would fail at with all others.
    public function next(Iterator $urls, int $number): Generator
    {
        for (; $number > 0 && $urls->valid(); $number--) {
            $url = $this->url = $urls->current();
            $this->now['links']++;
            $this->now['of'] += $this->visits ? (int) $url->visitsCount : 0;
            $key = "$url->domain/$url->shortCode";
            if ($url->shortCode === '') {
                $this->leave('the source has no short code for it');
            } elseif (strpbrk($url->shortCode, ' /') !== false) {
                $this->leave('Shlink\'s importer would change the short code, which has a space or a slash');
            } elseif (isset($this->seen[$key])) {
                $this->leave('the source has this short code twice');
            } else {
                $this->seen[$key] = true;
                yield $url;
            }
            $urls->next();
        }
    }

    public function orphans(iterable $visits): Generator
    {
        foreach ($visits as $visit) {
            $this->now['orphans']++;
            $this->now['of']++;
            yield $visit;
        }
    }

    public function text(string|array $message): void
    {
        $end = preg_replace('{^.*: (?=<)}s', '', (string) $message);
        if (preg_match('{<info>(?:Imported )?(\d+)</info>}', $end, $visits) === 1) {
            $this->now['visits'] += (int) $visits[1];
        }
        match (true) {
            str_starts_with($end, '<info>Imported</info>') => $this->now['new']++,
            preg_match('{Skipped</comment>\. Reason: (.*)\.}s', $message, $reason) === 1 => $this->leave($reason[1]),
            str_starts_with($end, '<comment>Skipped') => $this->now['present']++,
            str_starts_with($end, '<fg=red>Error') => $this->taken(),
            default => null,
        };
    }

    // The answer to whether a new short code is to be made where the old one is taken.
    public function choice(string $question, array $choices, mixed $default = null, bool $multiSelect = false): mixed
    {
        return 'Skip';
    }

    // What is in the database now: a failure takes back what came after the last call.
    public function keep(): string
    {
        $this->kept = $this->now;
        ['links' => $links, 'new' => $new, 'present' => $present, 'visits' => $visits, 'of' => $of] = $this->now;
        return "links: $links read, $new came, $present were here already; visits: $of read, $visits came\n";
    }

    // Whether everything that was read is here.
    public function show(): bool
    {
        $this->now = $this->kept;
        echo $this->keep();
        if ($this->now['orphans'] > 0) {
            echo "of these visits {$this->now['orphans']} read were no link's; the importer leaves out what is older "
                . "than the newest of this kind here\n";
        }
        foreach ($this->now['left'] as $reason => $codes) {
            $examples = implode(', ', array_slice($codes, 0, 10));
            echo 'did not come: ' . count($codes) . ": $reason ($examples)\n";
        }
        return $this->now['left'] === [];
    }

    private function taken(): void
    {
        $domain = (string) getenv('DEFAULT_DOMAIN');
        $same = $this->connection->fetchOne(
            'SELECT 1 FROM short_urls s LEFT JOIN domains d ON d.id = s.domain_id'
            . ' WHERE s.short_code = ? AND coalesce(d.authority, ?) = ? AND s.original_url = ?',
            [$this->url->shortCode, $domain, $this->url->domain ?? $domain, $this->url->longUrl],
        );
        match (true) {
            $same === false => $this->leave('its short code is taken by a link to another URL'),
            $this->visits && $this->url->visitsCount > 0 => $this->leave('its visits: the link came here another way'),
            default => $this->now['present']++,
        };
    }

    private function leave(string $reason): void
    {
        $this->now['left'][$reason][] = $this->url->shortCode;
    }
}

// Adds what Shlink's own importer does not read of a CSV: dates and limits, as `make export-links` writes them.
function withDates(iterable $urls, string $file): Generator
{
    $rows = fopen($file, 'rb');
    $heads = fn (array $row): array => array_map(fn ($head) => strtolower(str_replace(' ', '', $head)), $row);
    $header = $heads(fgetcsv($rows, null, ',', '"', ''));
    foreach ($urls as $url) {
        $row = array_combine($header, fgetcsv($rows, null, ',', '"', ''));
        $date = fn (string $key) => ($row[$key] ?? '') === '' ? null : new DateTimeImmutable($row[$key]);
        $limit = ($row['maxvisits'] ?? '') === '' ? null : (int) $row['maxvisits'];
        yield new ImportedShlinkUrl(
            source: $url->source,
            longUrl: $url->longUrl,
            tags: $url->tags,
            createdAt: $date('created') ?? $url->createdAt,
            domain: $url->domain,
            shortCode: $url->shortCode,
            title: $url->title,
            meta: new ImportedShlinkUrlMeta($date('validsince'), $date('validuntil'), $limit),
        );
    }
}

// What went wrong. Addresses and bodies may hold the credential, YOURLS' do.
function why(Throwable $error): string
{
    while ($error instanceof ImportException && $error->getPrevious() !== null) {
        $error = $error->getPrevious();
    }
    if ($error instanceof InvalidRequestException) {
        return "the source answers $error->statusCode to " . parse_url($error->url, PHP_URL_PATH);
    }
    return get_class($error) . ': ' . preg_replace('{ (for|to URL) "?http.*}s', '', $error->getMessage());
}

$request = json_decode((string) getenv('IMPORT'), true, flags: JSON_THROW_ON_ERROR);
$counts = null;
try {
    // As the image's entrypoint does: the pod's folder is empty.
    @mkdir('/etc/shlink/data/proxies', recursive: true);
    $entities = $container->get('em');
    $entities->getProxyFactory()->generateProxyClasses($entities->getMetadataFactory()->getAllMetadata());
    $source = ImportSource::from($request['source']);
    $answers = $request['answers'];
    if ($source === ImportSource::CSV) {
        $packed = fopen('/tmp/links.gz', 'wb');
        foreach (glob('/import/*') ?: [] as $piece) {
            fwrite($packed, file_get_contents($piece));
        }
        fclose($packed);
        copy('compress.zlib:///tmp/links.gz', '/tmp/links.csv');
        $answers['stream'] = fopen('/tmp/links.csv', 'rb');
    }
    $params = fn (array $answers) => $source->toParamsWithCallableMap(
        array_map(fn ($answer) => fn () => $answer, $answers),
    );
    $imported = $container->get(ImporterStrategyManager::class)->get($source->value)->import($params($answers));
    $urls = $imported->shlinkUrls;
    if ($source === ImportSource::CSV) {
        $urls = withDates($urls, '/tmp/links.csv');
    }
    $processor = $container->get(ImportedLinksProcessorInterface::class);
    $counts = new Counts($entities->getConnection(), (bool) ($answers['import_visits'] ?? false));
    $links = $params(['import_orphan_visits' => false] + $answers);
    $told = time();
    while ($urls->valid()) {
        $processor->process($counts, ImportResult::withShortUrls($counts->next($urls, 100)), $links);
        $line = $counts->keep();
        if (time() - $told >= 10) {
            $told = time();
            echo $line;
        }
    }
    if ($answers['import_orphan_visits'] ?? false) {
        $orphans = ImportResult::withShortUrlsAndOrphanVisits([], $counts->orphans($imported->orphanVisits));
        $processor->process($counts, $orphans, $params($answers));
        $counts->keep();
    }
} catch (Throwable $error) {
    $failure = why($error);
}
$complete = $counts?->show();
if (isset($failure)) {
    echo "it ended early: $failure. The next run goes on from there\n";
    if ($error instanceof ImportException && $error->continueToken !== null) {
        echo "to skip what came: --answer continue_token={$error->continueToken}\n";
    }
}
exit($complete && ! isset($failure) ? 0 : 1);
