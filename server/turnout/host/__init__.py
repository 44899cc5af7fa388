"""Access to operating system features that are not available on all platforms. No other package uses such features.

Turnout's platform is Linux. On macOS, which is supported for development, and on other systems, functions whose feature
is missing do nothing or return what is known: a lock that is not available locks nothing, and a limit that cannot be
set is not set.
"""
