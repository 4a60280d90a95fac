"""What every process tells of itself: the form of its log, and its spans. Imports no other room."""
