"""The database under the store: SQLite or PostgreSQL, its schema, migrations, errors and notifications."""
