"""What runs the project, besides docker-compose.yml. Owns no part of serving itself."""
