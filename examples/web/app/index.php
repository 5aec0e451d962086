<?php
// Shows the three places an application meets: its own read-only image, configuration, and files that are kept.

/** The NAME=value lines of a file. */
function read_settings(string $path): array
{
    $settings = [];
    foreach (file($path, FILE_IGNORE_NEW_LINES | FILE_SKIP_EMPTY_LINES) ?: [] as $line) {
        [$name, $value] = explode('=', $line, 2) + [1 => ''];
        $settings[$name] = $value;
    }
    return $settings;
}

/** One more than the number in the file, which it is set to; the lock keeps parallel requests apart. */
function count_visit(string $path): int
{
    $file = fopen($path, 'c+');
    if ($file === false || !flock($file, LOCK_EX)) {
        throw new RuntimeException("cannot open and lock $path");
    }
    $count = (int) stream_get_contents($file) + 1;
    rewind($file);
    fwrite($file, (string) $count);  // never shorter than what it replaces
    fflush($file);
    fclose($file);
    return $count;
}

$settings = read_settings('/run/config/app.env');
$count = count_visit('/user-files/counter');

header('Content-Type: text/plain; charset=utf-8');
echo $settings['GREETING'] ?? '(no greeting)', ' from ', gethostname(), "\n";
foreach ($settings as $name => $value) {
    echo "config $name=$value\n";
}
echo "visit $count\n";
