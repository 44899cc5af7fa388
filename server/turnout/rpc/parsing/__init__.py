"""Parsing of protobuf messages: limits that are checked before parsing, and a cache of parsed requests."""
