"""Other inputs than crawls, a module for each kind; `kinds.read_source` is the way in."""
