"""What a run would take on a machine, before it is started, and how that grows with machines (`lcl plan`, docs/scaling.md)."""
