"""What alembic runs for every migration: the connection, with its transaction begun, is handed in by `upgrade`."""

from alembic import context

from turnout.state.database.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
