"""Duplicates across a build, in steps that hand each other files (`find_duplicates` is the way in)."""
