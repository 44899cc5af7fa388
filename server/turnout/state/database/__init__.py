"""The database of the state store: SQLite or PostgreSQL, its schema, migrations, errors and notifications."""
