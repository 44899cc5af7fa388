"""What the listeners prove who they are with: read from files, checked before it is used, and read again on change.

files -> identity (checked) -> certificates (in force, watched) -> a transport's own form of it
"""
