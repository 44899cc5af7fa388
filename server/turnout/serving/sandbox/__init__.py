"""Processes in which versions are tried: one child for each question, forked from a warm template process.

processes         what a child is asked and how it ended, and how it is started if nothing can be forked
fork_server       starts children by forking a process that has imported everything, and watches them
template_process  that process
child             what runs in a child
sandbox           the questions that gates ask
"""
