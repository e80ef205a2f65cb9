"""Speed against named peers; each module prints a table and writes json."""
