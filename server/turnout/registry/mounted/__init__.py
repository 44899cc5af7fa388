"""Read-only repositories: exported versions, or a Triton model repository, served from where they are.

`discovery` finds candidates for versions, `repository` turns them into versions.
"""
