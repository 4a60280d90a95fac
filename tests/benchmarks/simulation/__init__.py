"""The simulation: against formulas of queueing theory, against recorded runs, and its command line."""
