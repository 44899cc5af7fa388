"""The TLS certificates of the listeners: read from files, checked before use, and reloaded on change.

files -> identity (checked) -> certificates (in force, watched) -> the form that each transport needs
"""
