"""What can be wrong with machines before and while they train, each with what to do about it (`lcl doctor`)."""
