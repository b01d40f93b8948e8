"""Fetching images that a crawl lacks: URL tables in, an immutable store of bodies with a ledger out.

    URL tables --> shuffle (url_tables) --> partitions of whole sites --> fetch_partition --> WARC files, ledger, index
                                                 ^                            |
                                                 +------ redirects to other sites, until none is left (run_fetch)
"""
