"""What is done with finished shards: verify, statistics, view, select, repack, remove, data card, scores; an entry point and its engine for each."""
