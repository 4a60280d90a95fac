"""What the project's own tools cost, measured on demand; no part of the service and of no test."""
