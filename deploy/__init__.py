"""Deployment: the programs that run the project, beside docker-compose.yml. Owns no part of serving."""
