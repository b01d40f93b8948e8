"""Before a build: its plan (`--dry-run`), and a pilot that predicts what it gives and costs."""
