"""What a run found, as report.json, a page, tables and pictures."""
