"""Alembic runs this for every migration. `upgrade` passes the connection, with its transaction begun."""

from alembic import context

from turnout.state.database.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
